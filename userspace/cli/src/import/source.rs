// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an image can be imported from, as users say it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

/// What a source is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    /// Found out by what is in it
    #[default]
    Auto,
    /// The files of the image
    Tar,
    /// An OCI image layout
    Oci,
    /// What docker save and podman save write
    DockerArchive,
    /// A squashfs image
    Squashfs,
    /// An EROFS image
    Erofs,
    /// An image of a registry
    #[value(skip)]
    Registry,
}

/// A source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Source {
    pub(super) format: Format,
    /// Its place; of an image of a registry what it is called there.
    pub(super) path: PathBuf,
    /// Which image of it is meant.
    pub(super) image: Option<String>,
}

impl FromStr for Source {
    type Err = Infallible;

    /// Reads a path, with a transport of skopeo's before it and then perhaps an image's name behind it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if let Some(reference) = text.strip_prefix("docker://") {
            return Ok(Source {
                format: Format::Registry,
                path: reference.into(),
                image: None,
            });
        }
        const TRANSPORTS: [(&str, Format); 3] = [
            ("oci:", Format::Oci),
            ("oci-archive:", Format::Oci),
            ("docker-archive:", Format::DockerArchive),
        ];
        let mut transports = TRANSPORTS.iter();
        let named =
            transports.find_map(|(prefix, format)| Some((text.strip_prefix(prefix)?, format)));
        let Some((rest, format)) = named else {
            return Ok(Source {
                format: Format::Auto,
                path: text.into(),
                image: None,
            });
        };
        let (path, image) = match rest.split_once(':') {
            Some((path, image)) => (path, Some(image).filter(|image| !image.is_empty())),
            None => (rest, None),
        };
        Ok(Source {
            format: *format,
            path: path.into(),
            image: image.map(str::to_owned),
        })
    }
}

/// Reads a number of bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let shift = match unit {
        "" => Some(0),
        "k" | "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let size = digits.parse::<u64>().ok();
    let size = size
        .zip(shift)
        .and_then(|(size, shift)| size.checked_mul(1 << shift));
    size.ok_or_else(|| "a number of bytes is expected, perhaps with k, M, G or T".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_paths_or_those_of_skopeo() {
        let parse = |text: &str| {
            let source: Source = text.parse().unwrap();
            let path = source.path.to_str().unwrap().to_owned();
            (source.format, path, source.image.unwrap_or_default())
        };
        let expected =
            |format, path: &str, image: &str| (format, path.to_owned(), image.to_owned());
        for (text, found) in [
            ("a:b.tar", expected(Format::Auto, "a:b.tar", "")),
            ("-", expected(Format::Auto, "-", "")),
            ("oci:/a/b", expected(Format::Oci, "/a/b", "")),
            ("oci:b:latest", expected(Format::Oci, "b", "latest")),
            (
                "docker://host:5000/name:tag",
                expected(Format::Registry, "host:5000/name:tag", ""),
            ),
            ("oci-archive:b.tar:", expected(Format::Oci, "b.tar", "")),
            (
                "docker-archive:b.tar:host:5000/name:tag",
                expected(Format::DockerArchive, "b.tar", "host:5000/name:tag"),
            ),
        ] {
            assert_eq!(parse(text), found, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("17"), Ok(17));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        for wrong in ["", "G", "1X", "-1", "1.5G", "99999999T", "1GG"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
