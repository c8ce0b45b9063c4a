// SPDX-License-Identifier: Apache-2.0
//! From flags, and the file that may take their place, to options.

use std::path::Path;

use berth_runtime::client::ApiArgs;
use berth_runtime::exit::{Code, ExitError};

use crate::ProxyArgs;
use crate::config::{self, Config};
use crate::options::Options;

/// What the proxy starts with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) options: Options,
    pub(crate) api: ApiArgs,
}

/// Reads everything that was given. What is given and not used is said once, here.
///
/// # Errors
/// Something makes no sense (2).
pub(crate) fn read(args: &ProxyArgs, mut api: ApiArgs) -> Result<Start, ExitError> {
    let host = nix::unistd::gethostname()
        .map_err(|error| ExitError::failure(format!("the machine's host name: {error}; give --node-name")))?;
    let host = host.to_string_lossy();
    let usage = |error: String| ExitError::new(Code::Usage, error);
    let Some(path) = &args.config else {
        let options = Options::new(args.shared.clone(), args.node_name.as_deref(), &host);
        let options = options.map_err(|error| usage(error.to_string()))?;
        return Ok(Start { options, api });
    };
    let config = file(path)?;
    let flags = args.shared.given();
    if !flags.is_empty() {
        tracing::warn!(
            flags = flags.join(", "),
            config = %path.display(),
            "ignored beside --config, as in kube-proxy; write them into the file"
        );
    }
    for ignored in &config.ignored {
        tracing::info!(
            field = ignored.path,
            why = ignored.why,
            "a field of the configuration has no effect"
        );
    }
    // A flag says where the API server is more closely than the file can.
    api.kubeconfig = api.kubeconfig.or(config.kubeconfig);
    let name = args.node_name.as_deref().or(config.node_name.as_deref());
    let options = Options::new(config.args, name, &host)
        .map_err(|error| usage(format!("{}: the field for {error}", path.display())))?;
    Ok(Start { options, api })
}

fn file(path: &Path) -> Result<Config, ExitError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ExitError::new(Code::Usage, format!("--config {shown}: {error}")))?;
    config::parse(&text).map_err(|faults| {
        let faults: Vec<String> = faults
            .iter()
            .map(|fault| format!("--config {shown}: {fault}"))
            .collect();
        ExitError::new(Code::Usage, faults.join("\n"))
    })
}
