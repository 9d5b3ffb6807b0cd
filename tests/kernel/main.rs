// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The tests that need a kernel, under `cargo test`: each script of this folder is one, and runs in a User Mode Linux
//! kernel of its own (`scripts/uml-run`). A line `# uml-run: OPTIONS` in it asks for more memory or time. One that
//! ends with status 77 could not be run here, which is no failure; all are skipped while there is no test kernel, since
//! building one takes longer than who says `cargo test` expects.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// What a test ends with that could not be run here.
const SKIPPED: i32 = 77;
/// How many lines of a failed test's log are shown.
const SHOWN_LINES: usize = 40;
/// How many of the longest tests are named at the end.
const NAMED_TESTS: usize = 10;
/// The time limit of `scripts/uml-run`, in seconds, of a script that names none.
const USUAL_LIMIT: u64 = 600;

/// One script of this folder.
struct Script {
    name: String,
    path: PathBuf,
    options: Vec<String>,
}

impl Script {
    /// The script at a path, unless what is there is none.
    fn open(path: PathBuf) -> io::Result<Option<Self>> {
        let is_script = path.extension().is_some_and(|extension| extension == "sh");
        if !is_script || path.metadata()?.permissions().mode() & 0o100 == 0 {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        let options = text
            .lines()
            .find_map(|line| line.strip_prefix("# uml-run: "));
        Ok(Some(Self {
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            options: options
                .unwrap_or_default()
                .split_whitespace()
                .map(String::from)
                .collect(),
            path,
        }))
    }

    /// The time limit that it asks for, in seconds.
    fn limit(&self) -> u64 {
        let value = self
            .options
            .iter()
            .skip_while(|option| *option != "--timeout")
            .nth(1);
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or(USUAL_LIMIT)
    }

    fn run(&self) -> Result<Completion, Failed> {
        let log_path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.log", self.name));
        let log = File::create(&log_path)?;
        let status = tool("uml-run")
            .args(&self.options)
            .arg(&self.path)
            .current_dir(top())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        let text = || fs::read(&log_path).map(|text| String::from_utf8_lossy(&text).into_owned());
        match status.code() {
            Some(0) => Ok(Completion::Completed),
            Some(SKIPPED) => Ok(Completion::ignored_with(
                text()?.lines().last().unwrap_or_default(),
            )),
            _ => {
                let text = text()?;
                let lines: Vec<_> = text.lines().collect();
                let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
                Err(format!("{shown}\n--- {status}; all of it: {}", log_path.display()).into())
            }
        }
    }
}

/// The top of the checkout.
fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A script, as somebody would run it by hand: what cargo says to a test of the test's own package would have crates built again
/// whose builds look at it, for minutes, here and when the next one runs it by hand.
fn tool(name: &str) -> Command {
    let mut command = Command::new(top().join("scripts").join(name));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|own| name.starts_with(own))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Whether there is a kernel to test in; if so, all that the guests, which cannot write here, want to find is built.
fn prepare() -> Result<bool, String> {
    let run = |name: &str, arguments: &[&str]| {
        let status = tool(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        status.map_err(|error| format!("scripts/{name}: {error}"))
    };
    if !run("build-kernel", &["--is-built", "uml"])?.success() {
        return Ok(false);
    }
    let steps: [(&str, &[&str]); 4] = [
        ("build-userspace", &[]),
        ("build-module", &["uml"]),
        ("minbase-tree", &[]),
        ("crowd-image", &[]),
    ];
    for (name, arguments) in steps {
        let status = run(name, arguments)?;
        if !status.success() {
            return Err(format!("scripts/{name}: {status}"));
        }
    }
    Ok(true)
}

/// Those that may take the longest come first, so that no processor is left idle at the end.
fn scripts() -> io::Result<Vec<Script>> {
    let mut scripts = Vec::new();
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR"))? {
        scripts.extend(Script::open(entry?.path())?);
    }
    scripts.sort_by(|a, b| b.limit().cmp(&a.limit()).then_with(|| a.name.cmp(&b.name)));
    Ok(scripts)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let scripts = match scripts() {
        Ok(scripts) => scripts,
        Err(error) => {
            eprintln!("{}: {error}", env!("CARGO_MANIFEST_DIR"));
            return ExitCode::FAILURE;
        }
    };
    let prepared = Arc::new(OnceLock::new());
    let times = Arc::new(Mutex::new(Vec::<(Duration, String)>::new()));
    let trials = scripts.into_iter().map(|script| {
        let (prepared, times) = (prepared.clone(), times.clone());
        Trial::ignorable_test(script.name.clone(), move || {
            if !prepared.get_or_init(prepare).clone()? {
                return Ok(Completion::ignored_with(
                    "no test kernel: `make kernel NAME=uml` builds it",
                ));
            }
            let began = Instant::now();
            let outcome = script.run();
            if let Ok(mut times) = times.lock() {
                times.push((began.elapsed(), script.name));
            }
            outcome
        })
        .with_kind("kernel")
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Ok(mut times) = times.lock() {
        times.sort_by(|a, b| b.cmp(a));
        let longest = times.iter().take(NAMED_TESTS);
        let longest: Vec<_> = longest
            .map(|(time, name)| format!("{name} {} s", time.as_secs()))
            .collect();
        if !longest.is_empty() {
            println!("longest: {}\n", longest.join(", "));
        }
    }
    conclusion.exit_code()
}
