// SPDX-License-Identifier: GPL-2.0

//! The mount options.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::str::CString;
use peerfs_format::upcall::Workload;
use peerfs_format::Digest;

use crate::rust::fs::{FsContext, Parameter};

/// For how long a reader waits for what is missing unless `timeout=` says otherwise: seconds.
const TIMEOUT_DEFAULT: u32 = 30;
/// The longest timeout: a day.
const TIMEOUT_MAX: u32 = 24 * 60 * 60;

/// What was given so far.
#[derive(Default)]
pub(crate) struct Options {
    /// The store's path.
    pub(crate) root_dir: Option<CString>,
    /// The digest of the image's manifest.
    pub(crate) manifest: Option<Digest>,
    timeout: Option<u32>,
    /// What the mount is for.
    pub(crate) workload: Option<Workload>,
    /// Whether the image must be signed.
    pub(crate) require_signature: bool,
}

impl Options {
    /// Seconds that a reader waits for what is missing.
    pub(crate) fn timeout(&self) -> u32 {
        self.timeout.unwrap_or(TIMEOUT_DEFAULT)
    }

    /// Whether `timeout=` was given.
    pub(crate) fn has_timeout(&self) -> bool {
        self.timeout.is_some()
    }

    /// Takes one option; `false` if there is none of this name.
    pub(crate) fn parse(
        &mut self,
        context: &FsContext<'_>,
        parameter: &Parameter<'_>,
    ) -> Result<bool> {
        match parameter.key {
            b"root_dir" => {
                let path = text(context, parameter)?;
                self.root_dir = Some(CString::try_from_fmt(fmt!("{path}"))?);
            }
            b"manifest" => {
                let digest = text(context, parameter)?.parse().map_err(|_| {
                    context.error(format_args!(
                        "manifest: not a SHA-256 digest (64 hexadecimal digits, as `peerfs build` prints)"
                    ));
                    EINVAL
                })?;
                self.manifest = Some(digest);
            }
            b"timeout" => {
                let seconds = text(context, parameter)?.parse().ok();
                self.timeout = seconds.filter(|seconds| (1..=TIMEOUT_MAX).contains(seconds));
                if self.timeout.is_none() {
                    context.error(format_args!(
                        "timeout: not a number of seconds from 1 to {TIMEOUT_MAX}"
                    ));
                    return Err(EINVAL);
                }
            }
            b"workload" => {
                self.workload = Workload::new(text(context, parameter)?);
                if self.workload.is_none() {
                    context.error(format_args!(
                        "workload: not a name of 1 to 31 letters, digits, dots, dashes and underscores, of which the first is a letter or digit"
                    ));
                    return Err(EINVAL);
                }
            }
            b"require_signature" => {
                if parameter.value.is_some() {
                    context.error(format_args!("require_signature: takes no value"));
                    return Err(EINVAL);
                }
                self.require_signature = true;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The value of an option that needs one.
fn text<'a>(context: &FsContext<'_>, parameter: &Parameter<'a>) -> Result<&'a str> {
    let name = core::str::from_utf8(parameter.key).unwrap_or("option");
    let value = parameter.value.filter(|value| !value.is_empty());
    let text = value.and_then(|value| core::str::from_utf8(value).ok());
    text.ok_or_else(|| {
        context.error(format_args!("{name}: needs a value, as in {name}=VALUE"));
        EINVAL
    })
}
