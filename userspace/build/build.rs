// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Generates the reader of PuzzleFS's metadata.

fn main() {
    println!("cargo:rerun-if-changed=puzzlefs.capnp");
    capnpc::CompilerCommand::new()
        .file("puzzlefs.capnp")
        .run()
        .expect("compiling puzzlefs.capnp (is the capnproto package installed?)");
}
