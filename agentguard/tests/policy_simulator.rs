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
