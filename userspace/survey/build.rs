// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Generates the Cap'n Proto lists that the format's tables are compared with.

fn main() {
    println!("cargo:rerun-if-changed=src/lists.capnp");
    capnpc::CompilerCommand::new()
        .file("src/lists.capnp")
        .run()
        .expect("compiling lists.capnp (is the capnproto package installed?)");
}
