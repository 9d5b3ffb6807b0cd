// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `oci-layout`, which says that a directory is a layout.

use oci_spec::image::OciLayout;

use crate::{Error, Result};

/// The content of the file.
pub const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}\n";

/// Checks the content of such a file.
///
/// # Errors
/// [`Error::Json`]; [`Error::LayoutVersion`] if it is of a version that is not known.
pub fn check_layout(text: &[u8]) -> Result<()> {
    let layout: OciLayout = serde_json::from_slice(text)?;
    let version = layout.image_layout_version();
    if version.starts_with("1.") {
        Ok(())
    } else {
        Err(Error::LayoutVersion(version.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_has_a_version() {
        check_layout(LAYOUT.as_bytes()).unwrap();
        let refused = check_layout(&LAYOUT.replace("1.", "2.").into_bytes());
        assert!(matches!(refused, Err(Error::LayoutVersion(version)) if version == "2.0.0"));
        assert!(matches!(check_layout(b"{}"), Err(Error::Json(_))));
    }
}
