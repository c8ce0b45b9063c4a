// SPDX-License-Identifier: Apache-2.0
//! (written next)
#![forbid(unsafe_code)]
