// SPDX-License-Identifier: Apache-2.0
//! Documented exit codes, and an error that carries one.

use std::fmt;
use std::process::ExitCode;

/// Why a command ended. The numbers are part of the interface: supervisors and scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// 0: done, or stopped on request.
    Ok,
    /// 1: a failure with no number of its own.
    Failure,
    /// 2: the flags make no sense (clap uses the same number).
    Usage,
    /// 3: a privilege is missing.
    Privilege,
    /// 4: the API server cannot be reached, does not accept us, or its address is not known.
    ApiServer,
    /// 5: the identity was lost to or is contested by another process: lease lost, second announcer for a node.
    Identity,
}

impl Code {
    /// The number the process exits with.
    pub fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Privilege => 3,
            Self::ApiServer => 4,
            Self::Identity => 5,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

/// An error that ends the process: what to print, and the code to exit with.
#[derive(Debug)]
pub struct ExitError {
    code: Code,
    message: String,
}

impl ExitError {
    /// An error with a code of the caller's choice.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// An error without a code of its own (1).
    pub fn failure(message: impl fmt::Display) -> Self {
        Self::new(Code::Failure, message)
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExitError {}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let codes = [
            Code::Ok,
            Code::Failure,
            Code::Usage,
            Code::Privilege,
            Code::ApiServer,
            Code::Identity,
        ];
        assert_eq!(codes.map(Code::number), [0, 1, 2, 3, 4, 5]);
    }
}
