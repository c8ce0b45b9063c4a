// SPDX-License-Identifier: Apache-2.0
//! From flags to options.

use berth_runtime::client::ApiArgs;
use berth_runtime::exit::{Code, ExitError};

use crate::ProxyArgs;
use crate::options::Options;

/// What the proxy starts with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) options: Options,
    pub(crate) api: ApiArgs,
}

/// Reads everything that was given.
///
/// # Errors
/// Something makes no sense (2).
pub(crate) fn read(args: &ProxyArgs, api: ApiArgs) -> Result<Start, ExitError> {
    let host = nix::unistd::gethostname()
        .map_err(|error| ExitError::failure(format!("the machine's host name: {error}; give --node-name")))?;
    let host = host.to_string_lossy();
    let options = Options::new(args.shared.clone(), args.node_name.as_deref(), &host)
        .map_err(|error| ExitError::new(Code::Usage, error))?;
    Ok(Start { options, api })
}
