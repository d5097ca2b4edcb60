//! `agentguard policy` as a user runs it: output, standard error, exit status; and the profiles that we
//! ship, which must pass their own tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// What came of a command.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_agentguard"))
        .arg("policy")
        .args(args)
        .output()
        .expect("the binary runs");
    Ran {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn shipped_str() -> String {
    shipped().display().to_string()
}

/// A folder with one policy file, and the file's name.
fn written(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("mine.toml");
    std::fs::write(&file, text).expect("a file");
    (dir, file.display().to_string())
}

fn explain(args: &[&str]) -> Ran {
    let folder = shipped_str();
    let mut all = vec!["explain", "--profile", "coding", "--policies", &folder];
    all.extend(args);
    run(&all)
}

#[test]
fn shipped_profiles_have_no_findings_and_pass_their_tests() {
    let mut names: Vec<String> = std::fs::read_dir(shipped())
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in names {
        let checked = run(&["check", &name]);
        assert_eq!((checked.code, checked.err.as_str()), (0, ""), "{name}");
        let tested = run(&["test", "--json", &name]);
        assert_eq!(tested.code, 0, "{}", tested.out);
        let json: Value = serde_json::from_str(&tested.out).expect("JSON");
        assert!(json["passed"].as_u64() > Some(3), "{name}: {json}");
        assert_eq!(json["without_tests"], serde_json::json!([]));
    }
}

#[test]
fn check_says_what_is_wrong_where_and_ends_with_1() {
    let (_dir, file) = written("version = 1\n[[deny]]\nfile = \"~/.ssh\"\nacess = \"read\"\n");
    let ran = run(&["check", &file]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains(&format!("{file}:3:9: error")),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("file = \"~/.ssh\""), "{}", ran.err);
    assert!(ran.err.contains("write \"/home/*/.ssh\""), "{}", ran.err);
    assert!(ran.err.contains("did you mean `access`?"), "{}", ran.err);
    assert!(!ran.err.contains('\u{1b}'), "colours in a pipe");
    let json: Value = serde_json::from_str(&run(&["check", "--json", &file]).out).expect("JSON");
    assert_eq!(json["errors"], 2);
    assert_eq!(json["diagnostics"][0]["line"], 3);
    assert_eq!(json["diagnostics"][0]["text"], "~");
}

#[test]
fn check_of_a_file_with_warnings_ends_with_0() {
    let (_dir, file) = written("version = 1\n[[deny]]\nfile = [\"/a\", \"/a\"]\n");
    let ran = run(&["check", &file]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("warning"), "{}", ran.err);
    assert!(ran.out.contains("mine.toml: ok"), "{}", ran.out);
}

#[test]
fn explain_says_verdict_rule_place_and_reason_whatever_the_verdict() {
    let ran = explain(&["open", "/home/u/.ssh/id_ed25519", "--access", "read,write"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("deny"), "{}", ran.out);
    for part in [
        "credentials",
        "baseline.toml:",
        "Credentials stay with people.",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let ran = explain(&["exec", "/usr/bin/git", "--", "push", "--force"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("allow"), "{}", ran.out);
    let ran = explain(&["connect", "tcp://192.0.2.1:443"]);
    assert!(ran.out.starts_with("deny"), "{}", ran.out);
    assert!(ran.out.contains("default"), "{}", ran.out);
    let ran = explain(&["listen", "tcp://127.0.0.1:3000"]);
    assert!(ran.out.starts_with("allow"), "{}", ran.out);
}

#[test]
fn explain_as_json_is_complete() {
    let ran = explain(&["--json", "connect", "unix:/run/docker.sock"]);
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(json["verdict"], "deny");
    assert_eq!(json["mode"], "enforce");
    assert_eq!(json["rule"], "container-sockets");
    assert!(
        json["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("baseline.toml"))
    );
    assert!(json["line"].as_u64() > Some(0));
    assert!(json["because"].is_string());
}

#[test]
fn explain_refuses_what_is_no_question() {
    for (args, code, said) in [
        (vec!["open", "relative"], 2, "relative path"),
        (vec!["open", "/a/../b"], 2, "as the kernel resolves it"),
        (vec!["connect", "*.example.com:443"], 2, "host name"),
        (vec!["listen", "example.com:443"], 2, "other end"),
        (vec!["connect", "10.0.0.0/8:1"], 2, "one address"),
        (vec!["listen", "unix:/x"], 2, "creating a file"),
        (vec!["open", "/a", "--access", "own"], 2, "possible values"),
    ] {
        let ran = explain(&args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{args:?}: {}", ran.err);
    }
    let long = format!("/{}", "a".repeat(65_535));
    let ran = explain(&["open", &long]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("65536 bytes long"), "{}", ran.err);
    assert!(ran.err.len() < 1_000);
}

#[test]
fn an_unknown_profile_has_an_exit_code_of_its_own() {
    let folder = shipped_str();
    let ran = run(&[
        "explain",
        "--profile",
        "codign",
        "--policies",
        &folder,
        "open",
        "/a",
    ]);
    assert_eq!(ran.code, 19);
    assert!(ran.err.contains("did you mean \"coding\"?"), "{}", ran.err);
}

#[test]
fn a_path_that_is_not_utf8_is_judged_as_bytes() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let output = Command::new(env!("CARGO_BIN_EXE_agentguard"))
        .args(["policy", "explain", "--profile", "coding", "--policies"])
        .arg(shipped())
        .arg("open")
        .arg(OsStr::from_bytes(b"/home/\xff/.ssh/id"))
        .output()
        .expect("the binary runs");
    let out = String::from_utf8(output.stdout).expect("text");
    assert!(out.starts_with("deny"), "{out}");
    assert!(out.contains(r"\xff"), "{out}");
}

#[test]
fn test_counts_what_fails_and_says_why() {
    let (_dir, file) = written(
        "version = 1\n[default]\nfile = \"allow\"\n\
         [[deny]]\nid = \"a\"\nfile = \"/a\"\n\
         [[test]]\nopen = \"/a\"\naccess = \"read\"\nexpect = \"deny\"\nrule = \"a\"\n\
         [[test]]\nopen = \"/a\"\naccess = \"read\"\nexpect = \"allow\"\n\
         [[test]]\nopen = \"/b\"\naccess = \"read\"\nexpect = \"allow\"\nrule = \"a\"\n",
    );
    let ran = run(&["test", &file]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("1 passed, 2 failed"), "{}", ran.out);
    assert!(
        ran.out
            .contains("mine.toml:12: FAILED: open /a (read): deny by a"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("expected allow by a"), "{}", ran.out);
}

#[test]
fn a_file_without_tests_is_said_to_have_none() {
    let (_dir, file) = written("version = 1\n");
    let ran = run(&["test", &file]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("has no [[test]] tables"), "{}", ran.out);
}

#[test]
fn the_schema_is_a_schema() {
    let ran = run(&["schema"]);
    assert_eq!(ran.code, 0);
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert!(json["$schema"].is_string());
    assert_eq!(json["properties"]["version"]["maximum"], 1);
}
