// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The queries of the dashboard and of the alerts ask for what there is.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use peerfs_monitor::NAMES;

/// The names of this program's metrics in a text.
fn names(text: &str) -> Vec<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("peerfs_")).collect()
}

#[test]
fn all_queries_are_of_metrics_that_there_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/monitoring");
    for (file, at_least) in [("grafana.json", 15), ("alerts.yml", 10)] {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let names = names(&text);
        assert!(names.len() >= at_least, "{file}: {names:?}");
        for name in names {
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert!(NAMES.contains(&base), "{file}: there is no {name}");
        }
    }
    let dashboard = fs::read_to_string(folder.join("grafana.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}
