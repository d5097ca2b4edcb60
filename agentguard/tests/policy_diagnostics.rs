//! What is said about bad policies: every message, with its place and its help, as a person reads it.

use std::{fmt::Write as _, path::Path};

use agentguard::policy::{
    Access, Capabilities, Severity, Style, load_dir, load_file, load_profile, load_text,
};
use agentguard_common::{profile::Subject, system::Operation};

/// What is said about policies, each after its text.
fn said(policies: &[&str]) -> String {
    let mut out = String::new();
    for text in policies {
        let found = match load_text("bad.toml", text, &Capabilities::all()) {
            Ok(loaded) => loaded.warnings,
            Err(found) => found,
        };
        assert!(!found.is_empty(), "nothing was said about\n{text}");
        let _ = writeln!(out, "{}", found.render(Style::Plain));
    }
    out
}

/// What is said about the patterns of a rule.
fn said_about(key: &str, patterns: &[&str]) -> String {
    let texts: Vec<String> = patterns
        .iter()
        .map(|pattern| format!("version = 1\n[[deny]]\n{key} = '{pattern}'\n"))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    said(&texts)
}

#[test]
fn files() {
    insta::assert_snapshot!(said(&[
        "",
        "version = 2\n",
        "version = \"1\"\n",
        "version = 1\nname = \"a b\"\n",
        "version = 1\nmode = \"learn\"\n",
        "version = 1\nmode = \"audti\"\n",
        "version = 1\nverison = 1\nrules = []\n",
        "version = 1\n[log]\nallow = \"some\"\ndeny = \"all\"\n",
        "version = 1\n[system]\nio_uring = \"yes\"\nuring = \"allow\"\nbpf = \"allow\"\nperf = true\n",
        "version = 1\n[system]\ncapabilities = [\"cap_chwon\", \"CAP_SYS_ADMIN\", \"x\"]\n",
        "version = 1\n[system]\ncapabilities = \"allow\"\n",
        "version = 1\n[approvals]\nmax_pending = 0\ncooldown = \"soon\"\n",
        "version = 1\n[default]\nfile = { raed = \"allow\" }\nexec = \"maybe\"\nnet = \"deny\"\n",
        "version = 1\nname =\n[[deny]\n",
        "version = 1\ndescription = 5\ninclude = []\n",
        "version = 1\ninclude = [\"a/b\", \"c\", \"c\"]\n",
    ]));
}

#[test]
fn arguments() {
    insta::assert_snapshot!(said(&[
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = []\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"x**\"]\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"***\"]\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"\\u0000\"]\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"[a\"]\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"**\", \"**\"]\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"{a,b,c,d,e,f,g,h}\", \"{a,b,c,d,e,f,g,h}\", \"{a,b,c,d,e,f,g,h}\", \"{a,b,c,d,e,f,g,h}\"]\n",
        // Rules that look at arguments and can't win.
        "version = 1\n[[deny]]\nexec = \"/a\"\n[[ask]]\nexec = \"/a\"\nargs = [\"x\", \"**\"]\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\nargs = [\"**\", \"x\", \"**\"]\n[[ask]]\nexec = \"/a\"\nargs = [\"x\", \"*\"]\n",
        "version = 1\n[[test]]\nexec = \"/a\"\nargs = [\"a\\u0000\"]\nexpect = \"deny\"\n",
        "version = 1\n[[test]]\nopen = \"/a\"\naccess = \"read\"\nargs = [\"a\"]\nexpect = \"deny\"\n",
    ]));
}

#[test]
fn rules() {
    insta::assert_snapshot!(said(&[
        "version = 1\n[[deny]]\n",
        "version = 1\n[deny]\nfile = \"/a\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nexec = \"/b\"\n",
        "version = 1\n[[deny]]\nfile = []\n",
        "version = 1\n[[deny]]\nfile = [\"/a\", 5]\n",
        "version = 1\n[[deny]]\nfiles = \"/a\"\n",
        "version = 1\n[[deny]]\nfile = \"/usr/bin/git\"\nargs = [\"push\", \"**\"]\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nafter = \"x\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\naccess = [\"read\", \"wirte\"]\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\naccess = []\n",
        "version = 1\n[[deny]]\nexec = \"/a\"\naccess = \"read\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\ntimeout = \"60s\"\nlog = false\n",
        "version = 1\n[[allow]]\nfile = \"/a\"\nkill = true\n",
        "version = 1\n[[ask]]\nfile = \"/a\"\ntimeout = \"soon\"\n",
        "version = 1\n[[ask]]\nfile = \"/a\"\ntimeout = \"48h\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nid = \"two words\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nid = \"agentguard/mine\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nid = \"default\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nid = \"x\"\n[[deny]]\nfile = \"/b\"\nid = \"x\"\n",
        "version = 1\n[[deny]]\nfile = \"/a\"\nbecause = \"\"\n",
        "version = 1\n[[deny]]\nfile = [\"/a\", \"/a\"]\n",
    ]));
}

#[test]
fn rules_that_do_nothing() {
    insta::assert_snapshot!(said(&[
        "version = 1\n[[deny]]\nfile = \"/a/**\"\nexcept = \"/b/**\"\n",
        "version = 1\n[[deny]]\nfile = \"/a/*\"\nexcept = [\"/a/b\", \"/a/b/c\"]\n",
        "version = 1\n[[deny]]\nfile = \"/a/*\"\nexcept = \"/a/**\"\n",
        "version = 1\n[[allow]]\nid = \"hosts\"\nfile = \"/etc/hosts\"\n[[deny]]\nid = \"etc\"\nfile = \"/etc/**\"\n",
        "version = 1\n[[ask]]\nfile = \"/a/.env\"\n[[deny]]\nfile = \"**/.env\"\n",
        "version = 1\n[[deny]]\nfile = \"/a/**\"\n[[deny]]\nfile = \"/a/b\"\n",
        "version = 1\n[[deny]]\nfile = \"/sys/fs/bpf/**\"\n",
        "version = 1\n[[allow]]\nconnect = \"tcp://10.1.2.3:80\"\n[[deny]]\nconnect = \"10.0.0.0/8\"\n",
    ]));
}

#[test]
fn paths() {
    insta::assert_snapshot!(said_about(
        "file",
        &[
            "",
            "~/.ssh/**",
            "~bob/x",
            "$HOME/x",
            "/home/${USER}/x",
            "relative/path",
            "./x",
            "**",
            "/a/b**",
            "/a/***/b",
            "/a/",
            "/a//b",
            "/a/../b",
            "/./a",
            "/a/[b",
            "/a/[]",
            "/a/[^b]",
            "/a/[z-a]",
            "/a/[é]",
            "/a/{b",
            "/a/b}",
            "/a/{{{{{{{{{b}}}}}}}}}",
            "{a,/b}/c",
            r"/a\",
            "/a/{1,2,3,4,5,6,7,8}{1,2,3,4,5,6,7,8}{1,2,3,4,5,6,7,8}{1,2,3,4,5,6,7,8}",
        ]
    ));
}

#[test]
fn addresses() {
    insta::assert_snapshot!(said_about(
        "connect",
        &[
            "tcp://a.*.example.com",
            "tcp://*example.com:443",
            "tcp://a..example.com:443",
            "exa mple.com",
            "b\u{fc}cher\u{200d}.example",
            "tcp://[example.com]:443",
            "localhost:80",
            "http://192.0.2.1",
            "tcp://192.0.2.1:99999",
            "tcp://192.0.2.1:20-10",
            "tcp://192.0.2.1:http",
            "tcp://300.1.2.3",
            "tcp://10.0.0.0/33",
            "tcp://2001:db8::1:443/x",
            "tcp://[2001:db8::1",
            "tcp://[2001:db8::1]443",
            "tcp://[192.0.2.1]:443",
            "tcp://:443",
            "icmp://192.0.2.1:7",
            "10.1.2.3/8",
            "self",
            "tcp://self:3000",
            "vsock:2",
            "vsock:host:1024",
            "vsock:2:9-1",
            "vsock:4294967296:1",
            "unix:relative",
            "unix:*",
            "unix:~/x",
        ]
    ));
    insta::assert_snapshot!(
        "listen",
        said_about("listen", &["unix:/run/x", "example.com:80", "vsock:2:1024"])
    );
}

#[test]
fn a_pattern_of_64_kib_is_refused_in_a_few_words() {
    let found = said_about("file", &[&format!("/{}", "a".repeat(65_535))]);
    insta::assert_snapshot!(found);
}

#[test]
fn every_error_is_where_it_says() {
    let text = "version = 1\n\n[[deny]]\n  file = [\"/ok\", \"/a/b**\"]\n[[allow]]\nexec = \"x\"\n";
    let found = load_text("bad.toml", text, &Capabilities::all()).expect_err("two mistakes");
    let places: Vec<(u32, u32, &str)> = found
        .iter()
        .map(|finding| (finding.line, finding.column, finding.text.as_str()))
        .collect();
    assert_eq!(places, [(4, 23, "**"), (6, 9, "x")]);
    let drawn = found.render(Style::Graphical);
    assert!(drawn.contains("bad.toml:4:23"), "{drawn}");
    let json = found.to_json();
    assert_eq!(json[0]["line"], 4);
    assert_eq!(json[0]["file"], "bad.toml");
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["code"], "bad-pattern");
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("a file");
}

/// What is said about a folder, its name taken out.
fn said_of(dir: &Path, found: impl std::fmt::Display) -> String {
    found
        .to_string()
        .replace(&dir.display().to_string(), "POLICIES")
}

#[test]
fn folders() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write(dir, "a.toml", "version = 1\ninclude = [\"b\"]\n");
    write(
        dir,
        "b.toml",
        "version = 1\ninclude = [\"c\"]\n[[deny]]\nid = \"x\"\nfile = \"/b\"\n",
    );
    write(dir, "c.toml", "version = 1\ninclude = \"a\"\n");
    write(dir, "me.toml", "version = 1\ninclude = \"me\"\n");
    write(dir, "lost.toml", "version = 1\ninclude = \"bb\"\n");
    write(
        dir,
        "clash.toml",
        "version = 1\ninclude = \"x\"\n[[deny]]\nid = \"x\"\nfile = \"/c\"\n",
    );
    write(
        dir,
        "x.toml",
        "version = 1\n[[deny]]\nid = \"x\"\nfile = \"/x\"\n",
    );
    write(dir, "other.toml", "version = 1\nname = \"x\"\n");
    std::fs::write(dir.join("bytes.toml"), b"version = 1\n# \xff\n").expect("a file");
    let found = load_dir(dir, &Capabilities::all()).expect_err("mistakes");
    insta::assert_snapshot!(said_of(dir, found));
}

#[test]
fn profiles_that_are_not_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    write(dir, "coding.toml", "version = 1\n");
    let of = |name| {
        let found = load_profile(dir, name, &Capabilities::all()).expect_err("not there");
        said_of(dir, found)
    };
    let missing = load_file(&dir.join("none.toml"), &Capabilities::all()).expect_err("not there");
    let no_folder = load_dir(&dir.join("none"), &Capabilities::all()).expect_err("not there");
    let all = [
        of("codign"),
        of("offline"),
        of("../etc/passwd"),
        said_of(dir, missing),
        said_of(dir, no_folder),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_profile_that_this_kernel_cant_enforce_is_refused() {
    let capabilities = Capabilities::all()
        .without(Subject::File, Access::Metadata, "path_chmod")
        .without(Subject::Unix, Access::Read, "unix_stream_connect");
    let text = "version = 1\n[default]\nfile = \"allow\"\nconnect = \"deny\"\n\
                [[deny]]\nid = \"reads\"\nfile = \"/a\"\naccess = \"read\"\n\
                [[deny]]\nid = \"all\"\nfile = \"/b\"\n\
                [[allow]]\nfile = \"/c\"\n";
    let found = load_text("new.toml", text, &capabilities).expect_err("two hooks are missing");
    insta::assert_snapshot!(found.render(Style::Plain));
}

#[test]
fn what_system_restricts_needs_its_hook_and_the_kernel_is_named() {
    let capabilities =
        Capabilities::of_kernel("6.1.0-9").without_operation(Operation::Perf, "perf_event_open");
    let text = |perf: &str| format!("version = 1\n[system]\nperf = \"{perf}\"\n");
    let found = load_text("new.toml", &text("deny"), &capabilities).expect_err("refused");
    let said = found.render(Style::Plain);
    assert!(
        said.contains("`perf` of [system] is not allowed, which needs the hook perf_event_open, which this kernel (6.1.0-9) doesn't give"),
        "{said}"
    );
    assert!(said.contains("or write perf = \"allow\""), "{said}");
    load_text("new.toml", &text("allow"), &capabilities).expect("nothing to enforce");
}

#[test]
fn rules_that_multiply_are_named() {
    let mut text = "version = 1\n".to_owned();
    for number in 0..40 {
        let _ = write!(text, "[[deny]]\nfile = \"**/d{number}/**/f{number}\"\n");
    }
    let found = load_text("wild.toml", &text, &Capabilities::all()).expect_err("too many states");
    let errors: Vec<_> = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    assert_eq!(errors.len(), 1, "{found}");
    assert_eq!(errors[0].code, "explosion");
    assert!(
        errors[0].message.contains("\"wild/deny/"),
        "{}",
        errors[0].message
    );
}

/// Few states, but sets of many nodes that come up again and again, and many states of one short pattern: neither takes
/// long, and the rule that does it is named with what to write instead.
#[test]
fn what_takes_long_to_compile_is_refused_soon() {
    let letters = |from: u8| (from..from + 10).map(char::from);
    let many: Vec<String> = letters(b'a')
        .zip(letters(b'k'))
        .map(|(one, two)| format!("**/*{one}*{two}*"))
        .collect();
    let late = vec![format!("**/*a{}", "?".repeat(40))];
    let beside = ["/srv/**/keys".to_owned(), "/home/*/.x/**".to_owned()];
    for patterns in [many, late] {
        let mut text = "version = 1\n".to_owned();
        for pattern in beside.iter().chain(&patterns) {
            let _ = write!(text, "[[deny]]\nfile = \"{pattern}\"\n");
        }
        let began = std::time::Instant::now();
        let found = load_text("wild.toml", &text, &Capabilities::all()).expect_err("too much");
        // Unoptimised and on a busy machine; without the bound it was hours.
        assert!(began.elapsed().as_secs() < 300, "{:?}", began.elapsed());
        let said = found.render(Style::Plain);
        assert!(said.contains("error[explosion]"), "{said}");
        assert!(said.contains("wild.toml:6:"), "the third rule: {said}");
        assert!(said.contains("instead of `**/`"), "{said}");
        assert!(
            !said.contains("agentguard/"),
            "not what nobody can change: {said}"
        );
    }
    // What people write is far from it.
    let mut text = "version = 1\n".to_owned();
    for ending in letters(b'a') {
        let _ = write!(
            text,
            "[[deny]]\nfile = [\"**/*secret*.{ending}\", \"**/.{ending}*/**/*key*\"]\n"
        );
    }
    load_text("tame.toml", &text, &Capabilities::all()).expect("a profile");
}

#[test]
fn deputies() {
    insta::assert_snapshot!(said(&[
        "version = 1\n[[allow]]\nconnect = [\"tcp://192.0.2.1\", \"unix:/run/docker.sock\"]\n",
        "version = 1\n[[allow]]\nid = \"sockets\"\nconnect = \"unix:/run/**\"\n[[deny]]\nconnect = \"unix:/run/docker.sock\"\n",
        "version = 1\n[default]\nconnect = \"allow\"\n",
        "version = 1\n[default]\nconnect = \"allow\"\n[[deny]]\nconnect = [\"unix:@**\", \"unix:/{run,nix}/**\", \"unix:/tmp/ssh-*/**\"]\n",
    ]));
}

/// The lines that a profile's own comment tells a person to add are indented.
#[test]
fn what_profiles_tell_to_add_is_right() {
    let coding = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/coding.toml");
    let text = std::fs::read_to_string(coding).expect("the profile is there");
    let added: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#     "))
        .collect();
    let rules = added.iter().filter(|line| line.starts_with("[[")).count();
    assert_eq!(rules, 4, "{added:#?}");
    let text = format!("version = 1\n{}\n", added.join("\n"));
    let loaded = load_text("added.toml", &text, &Capabilities::all()).expect("a profile");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn libraries() {
    let rule = |except| {
        format!("version = 1\n[[deny]]\nexec = \"/**\"\nexcept = [\"/usr/bin/*\"{except}]\n")
    };
    insta::assert_snapshot!(said(&[&rule("")]));
    let text = rule(", \"**/*.so{,.*}\"");
    let loaded = load_text("good.toml", &text, &Capabilities::all()).expect("a profile");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn hosts() {
    insta::assert_snapshot!(said(&[
        "version = 1\n[[deny]]\nconnect = \"example.com\"\nprivate = true\n",
        "version = 1\n[[allow]]\nconnect = \"10.0.0.1\"\nprivate = true\n",
        "version = 1\n[[allow]]\nfile = \"/x\"\nprivate = true\n",
        "version = 1\n[[allow]]\nconnect = \"example.com\"\nprivate = \"yes\"\n",
        "version = 1\n[[deny]]\nconnect = \"**.example.com\"\nexcept = [\"example.org\"]\n",
        "version = 1\n[[deny]]\nconnect = \"**.example.com\"\n[[allow]]\nconnect = \"tcp://api.example.com:443\"\n",
        "version = 1\n[[allow]]\nconnect = \"example.com:443\"\nsni = \"require\"\n",
        "version = 1\n[[allow]]\nconnect = \"tcp://10.0.0.1:443\"\nsni = \"require\"\n",
        "version = 1\n[[deny]]\nconnect = \"tcp://example.com:443\"\nsni = \"require\"\n",
        "version = 1\n[[allow]]\nconnect = \"tcp://example.com:443\"\nsni = \"yes\"\n",
        "version = 1\n[default]\nconnect = \"allow\"\n[[allow]]\nconnect = \"tcp://example.com:443\"\nsni = \"require\"\n",
        "version = 1\n[hosts]\nresolvers = \"dns.example\"\nresolver = 1\n",
    ]));
}

#[test]
fn own_sockets() {
    insta::assert_snapshot!(said(&[
        "version = 1\n[[deny]]\nconnect = \"self\"\n",
        "version = 1\n[[deny]]\nconnect = \"127.0.0.0/8\"\nexcept = [\"self\"]\n",
        "version = 1\n[[allow]]\nconnect = [\"self:3000\", \"tcp://self\"]\n",
        "version = 1\n[[allow]]\nlisten = \"self\"\n",
    ]));
}
