// SPDX-License-Identifier: Apache-2.0
//! ServiceCIDRs, trimmed (field numbers of `networking/v1`, Kubernetes 1.37).

use std::sync::Arc;

use super::field::{Fields, Malformed};
use super::{Named, Wire};
use crate::service_cidr::ServiceCidr;

impl Wire for ServiceCidr {
    type Shared = ();

    fn read(raw: &[u8], named: &Named, (): &mut ()) -> Result<Self, Malformed> {
        let mut cidrs = Vec::new();
        for field in Fields::of(raw) {
            let field = field?;
            if field.number != 2 {
                continue;
            }
            for field in Fields::of(field.bytes()?) {
                let field = field?;
                if field.number == 1 {
                    cidrs.push(field.string()?);
                }
            }
        }
        Ok(Self {
            name: Arc::clone(&named.name),
            cidrs,
        })
    }
}
