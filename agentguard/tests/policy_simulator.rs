//! What the simulator shows of a compiled profile beyond questions about text: identities, pseudo-paths,
//! forged text, installation in an arena.

use agentguard::policy::{
    Capabilities, CompiledProfile, List, LiteralPath, Naming, load_text,
    simulator::{self, Met, Object},
};
use agentguard_common::{
    Verdict,
    decide::Text,
    event::Reason,
    profile::{Subject, verb},
};

const POLICY: &str = r#"
version = 1
[default]
file = "allow"
exec = "allow"

[[deny]]
id = "shadow"
file = "/etc/shadow"

[[deny]]
id = "keys"
file = ["/root/.ssh/**", "/home/*/.ssh/**"]
except = "/home/*/.ssh/known_hosts"

[[deny]]
id = "tool"
exec = "/usr/bin/tool"

[[allow]]
id = "log"
file = "/var/log/**"
log = false

[[ask]]
id = "asked"
exec = "/usr/bin/asked"
timeout = "10m"
because = "Somebody should look."
"#;

fn profile() -> CompiledProfile {
    let loaded = load_text("policy.toml", POLICY, &Capabilities::all())
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    CompiledProfile::clone(&loaded.profile)
}

fn literal<'p>(profile: &'p CompiledProfile, path: &str) -> &'p LiteralPath {
    profile
        .literals
        .iter()
        .find(|literal| literal.path == path.as_bytes())
        .unwrap_or_else(|| panic!("{path} is not a literal path"))
}

/// Verdict and rule for reading an object.
fn read(profile: &CompiledProfile, object: &Object) -> (Verdict, String) {
    let decision = simulator::ask(profile, Subject::File, verb::bit(verb::READ), object);
    (
        decision.outcome.verdict().expect("a verdict"),
        profile.rule_id(decision.outcome).to_owned(),
    )
}

#[test]
fn a_known_file_is_denied_under_every_name() {
    let profile = profile();
    let shadow = literal(&profile, "/etc/shadow");
    assert_eq!(shadow.naming, Naming::Whole);
    let name = b"/tmp/innocent";
    let mut object = Object::new(name);
    assert_eq!(read(&profile, &object).0, Verdict::Allow);
    object.aliases.push(Met {
        states: shadow.states,
        from: name.len(),
    });
    assert_eq!(read(&profile, &object), (Verdict::Deny, "shadow".into()));
}

#[test]
fn what_is_below_a_known_folder_is_judged_from_there() {
    let profile = profile();
    let home = literal(&profile, "/home");
    assert_eq!(home.naming, Naming::Front);
    let met = |from| Met {
        states: home.states,
        from,
    };
    // /home mounted at /mnt.
    let mut object = Object::new(b"/mnt/alice/.ssh/id");
    object.aliases.push(met("/mnt".len()));
    assert_eq!(read(&profile, &object), (Verdict::Deny, "keys".into()));
    let mut object = Object::new(b"/mnt/alice/.ssh/known_hosts");
    object.aliases.push(met("/mnt".len()));
    assert_eq!(read(&profile, &object).0, Verdict::Allow);
    let mut object = Object::new(b"/mnt/alice/notes");
    object.aliases.push(met("/mnt".len()));
    assert_eq!(read(&profile, &object).0, Verdict::Allow);
}

#[test]
fn only_what_denies_or_asks_is_known_by_identity() {
    let profile = profile();
    let named = |path: &str| {
        profile
            .literals
            .iter()
            .any(|literal| literal.path == path.as_bytes())
    };
    assert!(named("/root/.ssh"));
    assert!(named("/usr/bin/tool"));
    assert!(named("/usr/bin/asked"));
    assert!(!named("/var/log"));
    assert!(!named("/"));
}

#[test]
fn forged_text_denies_and_never_allows() {
    let profile = profile();
    let mut object = Object::new(b"/var/log/x");
    object.text = Text::Detached;
    let decision = simulator::ask(&profile, Subject::File, verb::bit(verb::READ), &object);
    assert_eq!(decision.outcome.verdict(), Some(Verdict::Deny));
    assert_eq!(decision.reason, Reason::Detached);
    let mut object = Object::new(b"/etc/shadow");
    object.text = Text::Detached;
    assert_eq!(read(&profile, &object), (Verdict::Deny, "shadow".into()));
}

#[test]
fn a_rule_table_says_what_rules_say() {
    let profile = profile();
    let rule = |id: &str| {
        profile
            .rules
            .iter()
            .find(|rule| rule.id == id)
            .unwrap_or_else(|| panic!("no rule {id}"))
    };
    let asked = rule("asked");
    assert_eq!(asked.list, List::Ask);
    assert_eq!(asked.timeout.map(|timeout| timeout.as_secs()), Some(600));
    assert_eq!(asked.because.as_deref(), Some("Somebody should look."));
    assert_eq!((asked.file.as_str(), asked.line), ("policy.toml", 25));
    assert_eq!(asked.profile, "policy");
    assert!(rule("log").quiet);
    assert_eq!(rule("agentguard/self").file, "builtin");
    // The daemon keeps the table beside the pins.
    let json = serde_json::to_string(&profile.rules).expect("JSON");
    let back: Vec<agentguard::policy::RuleInfo> = serde_json::from_str(&json).expect("the table");
    assert_eq!(back, profile.rules);
}

#[test]
fn a_quiet_rule_is_quiet() {
    let profile = profile();
    let object = Object::new(b"/var/log/syslog");
    let decision = simulator::ask(&profile, Subject::File, verb::bit(verb::READ), &object);
    assert!(decision.outcome.is_quiet());
    let object = Object::new(b"/var/lib/x");
    let decision = simulator::ask(&profile, Subject::File, verb::bit(verb::READ), &object);
    assert!(!decision.outcome.is_quiet());
}

#[test]
fn many_rules_of_one_sticky_kind_still_compile() {
    // Each of these remembers for good that it matched; exact ties would multiply them.
    let mut text = "version = 1\n[default]\nfile = \"allow\"\n".to_owned();
    for number in 0..1_000 {
        text.push_str(&format!("[[deny]]\nfile = \"**/.x{number}/**\"\n"));
    }
    let profile = load_text("sticky.toml", &text, &Capabilities::all())
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
        .profile;
    for path in ["/.x0/a", "/a/.x999", "/a/.x500/.x7/b"] {
        let object = Object::new(path.as_bytes());
        assert_eq!(read(&profile, &object).0, Verdict::Deny, "{path}");
    }
    for path in ["/x0/a", "/a/.x1000/b"] {
        let object = Object::new(path.as_bytes());
        assert_eq!(read(&profile, &object).0, Verdict::Allow, "{path}");
    }
}

#[test]
fn folders_within_folders_have_their_limit() {
    let mut text = "version = 1\n".to_owned();
    let mut path = String::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        path.push_str(&format!("/{name}"));
        text.push_str(&format!("[[deny]]\nfile = \"{path}\"\n"));
    }
    let found = load_text("deep.toml", &text, &Capabilities::all()).expect_err("nine levels");
    assert!(
        found.iter().any(|finding| finding.code == "too-nested"),
        "{found}"
    );
}

#[test]
fn arguments_that_cant_be_seen_whole_are_denied_when_they_matter() {
    let text = r#"
version = 1
[default]
exec = "allow"
[[deny]]
exec = "/a"
args = ["x", "**", "y"]
"#;
    let loaded = load_text("policy.toml", text, &Capabilities::all()).expect("a profile");
    let asked = |first: &str, length: usize| {
        let args = vec![first.as_bytes().to_vec(), vec![b'z'; length]];
        let path = b"/a".to_vec();
        agentguard::policy::explain(
            &loaded.profile,
            &agentguard::policy::Ask::Exec { path, args },
        )
    };
    let long = asked("x", 4_000);
    assert_eq!(long.verdict.name(), "deny");
    assert!(
        long.note.is_some_and(|note| note.contains("longer")),
        "{long}"
    );
    assert_eq!(asked("x", 3_000).verdict.name(), "allow");
    // The first argument has settled it.
    assert_eq!(asked("w", 4_000).verdict.name(), "allow");
}

/// A program that a rule with arguments names is known under its other names too.
#[test]
fn identities_hold_with_arguments() {
    let text = r#"
version = 1
[default]
exec = "allow"
[[deny]]
id = "push"
exec = "/usr/bin/git"
args = ["push", "**"]
"#;
    let loaded = load_text("policy.toml", text, &Capabilities::all()).expect("a profile");
    let git = literal(&loaded.profile, "/usr/bin/git");
    assert!(git.program);
    let verdict = |bytes: &[u8], aliases: Vec<Met>| {
        let mut object = Object::new(bytes);
        object.aliases = aliases;
        let verbs = verb::bit(verb::ONLY);
        simulator::ask(&loaded.profile, Subject::Args, verbs, &object)
            .outcome
            .verdict()
    };
    let met = Met {
        states: git.states,
        from: "/tmp/x".len(),
    };
    assert_eq!(verdict(b"/tmp/x\0push\0", vec![]), Some(Verdict::Allow));
    assert_eq!(verdict(b"/tmp/x\0push\0", vec![met]), Some(Verdict::Deny));
    assert_eq!(verdict(b"/tmp/x\0pull\0", vec![met]), Some(Verdict::Allow));
}

/// What may not be run may not be mapped as code; libraries go with the programs unless a rule denies them.
#[test]
fn mapping_follows_the_rules_on_programs() {
    let text = r#"
version = 1
[default]
exec = "deny"
[[deny]]
exec = "/opt/tool"
args = ["push"]
[[deny]]
exec = "/usr/lib/evil/**"
[[allow]]
exec = "/opt/**"
[[allow]]
exec = "/srv/tool"
args = ["pull"]
"#;
    let loaded = load_text("policy.toml", text, &Capabilities::all()).expect("a profile");
    for (path, expected, rule) in [
        ("/opt/other", "allow", "policy/allow/1"),
        ("/opt/tool", "deny", "policy/deny/1"),
        ("/srv/tool", "deny", "default"),
        (
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "allow",
            "agentguard/libraries",
        ),
        (
            "/lib64/ld-linux-x86-64.so.2",
            "allow",
            "agentguard/libraries",
        ),
        ("/usr/lib/evil/libc.so", "deny", "policy/deny/2"),
        ("/usr/lib/git-core/git", "deny", "default"),
        ("/home/u/libc.so.6", "deny", "default"),
        ("memfd:", "deny", "default"),
    ] {
        let path = path.as_bytes().to_vec();
        let found =
            agentguard::policy::explain(&loaded.profile, &agentguard::policy::Ask::Map { path });
        assert_eq!(
            (found.verdict.name(), found.rule.as_str()),
            (expected, rule),
            "{found}"
        );
    }
}

/// Who listens on a port is known to the kernel alone; what is asked here says that it depends.
#[test]
fn own_sockets_are_told_of() {
    let text = r#"
version = 1
[[allow]]
connect = "self"
[[deny]]
connect = "127.0.0.1:5432"
"#;
    let loaded = load_text("policy.toml", text, &Capabilities::all()).expect("a profile");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    for (address, depends) in [
        ("tcp://127.0.0.1:3000", true),
        ("udp://[::1]:3000", true),
        ("tcp://127.0.0.1:5432", false),
        ("tcp://192.0.2.1:3000", false),
        ("sctp://127.0.0.1:3000", false),
    ] {
        let address = agentguard::policy::parse_destination(address).expect("an address");
        let ask = agentguard::policy::Ask::Connect { address };
        let found = agentguard::policy::explain(&loaded.profile, &ask);
        assert_eq!(found.verdict.name(), "deny", "{found}");
        let said = found.note.is_some_and(|note| note.contains("`self`"));
        assert_eq!(said, depends, "{found}");
    }
}
