// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What machines an image is for.

use std::fmt;
use std::str::FromStr;

use crate::{Architecture, Error, Result};

/// An operating system and a kind of processor, as OCI names them: `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The processors.
    pub architecture: Architecture,
    /// Which of them, such as `v7`; None if it is the usual one, or of no interest.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        // From Rust's names to Go's.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture
                .parse()
                .unwrap_or_else(|_| Architecture::unknown()),
            variant: None,
        }
    }

    /// Fails if an image for `offered` is not suited to this platform.
    ///
    /// # Errors
    /// [`Error::WrongPlatform`].
    pub fn check(&self, offered: &Platform) -> Result<()> {
        match self.suits(offered) {
            Some(_) => Ok(()),
            None => Err(Error::WrongPlatform {
                wanted: self.to_string(),
                offered: offered.to_string(),
            }),
        }
    }

    /// How well an image for `offered` is suited to this platform, the most the best; None if it is not.
    pub fn suits(&self, offered: &Platform) -> Option<u32> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        // What is meant where nothing is said.
        let usual = match self.architecture.as_str() {
            "arm" => Some("v7"),
            "arm64" => Some("v8"),
            "amd64" => Some("v1"),
            _ => None,
        };
        let wanted = self.variant.as_deref().or(usual);
        let offered = offered.variant.as_deref().or(usual);
        let number = |variant: Option<&str>| variant?.strip_prefix('v')?.parse::<u32>().ok();
        match (number(wanted), number(offered)) {
            _ if wanted == offered => Some(u32::MAX),
            // Newer processors do what older ones do.
            (Some(wanted), Some(offered)) if offered < wanted => Some(offered),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    /// Reads `os/architecture` or `os/architecture/variant`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let is_name = |name: &str| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match (os, architecture, variant, parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if is_name(os) && variant.is_none_or(is_name) =>
            {
                Ok(Platform {
                    os: os.to_owned(),
                    architecture: architecture.parse()?,
                    variant: variant.map(str::to_owned),
                })
            }
            _ => Err(
                "OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT is expected, such as linux/arm64"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_processors_will_do() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let suits = |wanted, offered| platform(wanted).suits(&platform(offered));
        assert_eq!(suits("linux/arm64", "linux/arm64/v8"), Some(u32::MAX));
        assert_eq!(suits("linux/arm", "linux/arm/v7"), Some(u32::MAX));
        assert_eq!(suits("linux/arm", "linux/arm/v6"), Some(6));
        assert_eq!(suits("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(suits("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(suits("linux/amd64", "windows/amd64"), None);
        assert_eq!(suits("linux/386", "linux/amd64"), None);
        for wrong in [
            "linux",
            "linux/",
            "linux/ARM",
            "linux/arm/v7/x",
            "/arm",
            "linux/arm/",
        ] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
    }
}
