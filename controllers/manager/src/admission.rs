// SPDX-License-Identifier: Apache-2.0
//! The mutating admission webhook that gives Services values out of pools: certificates, HTTPS server, registration.
//!
//! In: admission reviews of Services, the Secret of Berth's own authority. Out: patches, refusals, warnings; the Secret and
//! the MutatingWebhookConfiguration. Touches: the API server, its own port, the clock. Decides nothing: what a write
//! needs is `berth_controllers_core::admission`, when certificates change is `::certificates`, and which value is
//! given says whoever implements [`Chooser`].
//!
//! ```text
//!   Secret <--> Keeper --> Credentials --+--> serve <-- POST /mutate-services -- API server
//!                                        |      |  decide --> Chooser --> Choice --> patch or refusal
//!                                        +--> Registrar --> MutatingWebhookConfiguration (caBundle)
//!                                        +--> mutual TLS between replicas
//! ```

mod args;
mod certificates;
mod chooser;
mod metrics;
mod registration;
mod server;
mod webhook;

pub use args::{AdmissionArgs, AdmissionArgsError, FailurePolicy, UnavailablePolicy};
pub use certificates::{CertificateError, Credentials, Keeper, Names, READ_PERIOD, SECRET, replica_name};
pub use chooser::{Ask, Choice, Chooser, Operation, Refusal, RefusalKind, Unavailable};
pub use metrics::AdmissionMetrics;
pub use registration::{CONFIGURATION, PATH, Registrar, Registration, Target, remove};
pub use server::serve;
pub use webhook::{Settings, Webhook};
