// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pull --on`: machines are folders here, in which a daemon of the tests answers.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::running::{peerfs, succeed};

const DIGEST: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

/// A program that runs a command on a machine of this folder, and says something before.
fn rsh(folder: &Path) -> String {
    let script = folder.join("rsh");
    let text = format!(
        "#!/bin/sh\ncd {} || exit\ncd \"$2\" || exit\nshift 2\necho Welcome\necho \"$@\" >asked\nshift 2\n\
         exec {} pull --socket control \"$@\"\n",
        folder.display(),
        env!("CARGO_BIN_EXE_peerfs")
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    format!("{} --fast", script.display())
}

/// A machine with a daemon that answers so.
fn machine(folder: &Path, name: &str, answer: &'static str) {
    fs::create_dir(folder.join(name)).unwrap();
    let listener = UnixListener::bind(folder.join(name).join("control")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut question).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                // Until it is left.
                while reader.read_line(&mut question).is_ok_and(|read| read > 0) {}
            }
        }
    });
}

fn pull(folder: &Path, on: &str) -> Command {
    let mut process = peerfs(Path::new("/nowhere"), "pull");
    process.args(["--on", on, "--rsh", &rsh(folder), "registry.example/a:1"]);
    process
}

#[test]
fn machines_pull_by_themselves_and_who_has_not_is_told() {
    let done = concat!(
        r#"{"progress":{"image":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","state":"fetching","#,
        r#""total_bytes":10,"present_bytes":5,"total_chunks":2,"present_chunks":1,"bytes_by_source":{}}}"#,
        "\n",
        r#"{"done":{"image":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","state":"complete","#,
        r#""total_bytes":10,"present_bytes":10,"total_chunks":2,"present_chunks":2,"bytes_by_source":{}}}"#,
        "\n"
    );
    let refused = "{\"error\":\"the disk is full\"}\n";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    machine(folder, "a", done);
    machine(folder, "user@b", done);
    machine(folder, "c", refused);
    let lines = String::from_utf8(succeed(&mut pull(folder, "a,user@b"))).unwrap();
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("a: {DIGEST}"), format!("user@b: {DIGEST}")]);
    let mut lazily = pull(folder, "a");
    lazily.args(["--on", "user@b", "--lazy", "--tag", "x", "--json"]);
    let lines = String::from_utf8(succeed(&mut lazily)).unwrap();
    assert_eq!(lines.lines().count(), 4, "{lines}");
    assert!(lines.contains(r#"{"node":"user@b","done":{"#), "{lines}");
    let asked = fs::read_to_string(folder.join("a/asked")).unwrap();
    let expected = "peerfs pull --json --lazy --tag=x registry.example/a:1\n";
    assert_eq!(asked, expected);

    let output = pull(folder, "a,c,none").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, format!("a: {DIGEST}\n").as_bytes());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("c: peerfsd says: the disk is full\n"),
        "{said}"
    );
    assert!(said.contains("none: "), "{said}");
    assert!(
        said.ends_with("peerfs: 2 of 3 nodes do not have the image; see above\n"),
        "{said}"
    );
    // A machine is no option of what is told it.
    let output = pull(folder, "-oProxyCommand=x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let mut process = peerfs(Path::new("/nowhere"), "pull");
    process.args(["--on", "a", "--rsh", "/nowhere/ssh", "x"]);
    let output = process.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a: can't run /nowhere/ssh"), "{said}");
}

/// A login says something in another encoding, and something that stays behind holds the output for errors.
#[test]
fn what_a_login_says_and_leaves_behind_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("rsh");
    let text = format!(
        "#!/bin/sh\nprintf 'Gr\\374\\337e\\n' >&2\nprintf 'Gr\\374\\337e\\n'\n\
         [ $1 = b ] && {{ sleep 60 >/dev/null & echo b is full >&2; exit 1; }}\n\
         i=0; while [ $i -lt 9999 ]; do echo more than a pipe has; i=$((i + 1)); done\n\
         echo '{{\"done\":{{\"image\":\"{DIGEST}\",\"state\":\"complete\",\"total_bytes\":1,\"present_bytes\":1,\
         \"total_chunks\":1,\"present_chunks\":1,\"bytes_by_source\":{{}}}}}}'\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let mut process = Command::new("timeout");
    let mut pull = peerfs(Path::new("/nowhere"), "pull");
    pull.args(["--on", "a,b", "--rsh"])
        .arg(&script)
        .arg("registry.example/a:1");
    process
        .arg("20")
        .arg(pull.get_program())
        .args(pull.get_args());
    let output = process.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(output.stdout, format!("a: {DIGEST}\n").as_bytes());
    assert!(said.contains("b: b is full\n"), "{said}");
}

#[test]
fn who_is_interrupted_waits_for_no_machine() {
    let folder = tempfile::tempdir().unwrap();
    machine(folder.path(), "a", "");
    let mut process = Command::new("timeout");
    process.args(["--foreground", "--signal", "INT", "2"]);
    // Also where the tests were started in the background.
    process.args(["env", "--default-signal"]);
    let pull = pull(folder.path(), "a");
    process.arg(pull.get_program()).args(pull.get_args());
    let before = Instant::now();
    let output = process.stdin(Stdio::null()).output().unwrap();
    assert!(before.elapsed() < Duration::from_secs(15));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
}
