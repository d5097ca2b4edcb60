//! Rules about hosts: what they say of names, and that going on from where the automata stand after a name, as the kernel
//! does, comes to the same as asking about all of it at once.

use agentguard::policy::{
    Ask, Capabilities, CompiledProfile, Destination, Expect, HostName, explain, load_text,
    parse_destination,
    simulator::{self, Met, Object},
};
use agentguard_common::{
    Verdict,
    decide::Text,
    event::Reason,
    identity::PATH_SUBJECTS,
    name::{PRIVATE, PUBLIC, service},
    profile::{Subject, verb},
};
use proptest::prelude::*;

const POLICY: &str = r#"
version = 1

[[deny]]
id = "evil"
connect = "evil.example.com"
because = "No."

[[deny]]
id = "no-ssh"
connect = "tcp://**.example.com:22"

[[ask]]
id = "asked"
connect = "tcp://asked.example.com:443"

[[allow]]
id = "api"
connect = ["tcp://api.example.com:443", "udp://api.example.com:443"]

[[allow]]
id = "one"
connect = "tcp://*.one.example:80-90"

[[allow]]
id = "any"
connect = "**.any.example"

[[allow]]
id = "inside"
connect = ["tcp://*.corp.example:443", "tcp://10.0.0.0/8:5432"]
private = true

[[deny]]
id = "network"
connect = "tcp://203.0.113.0/24:25"
"#;

fn profile(text: &str) -> CompiledProfile {
    let loaded = load_text("policy.toml", text, &Capabilities::all())
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    CompiledProfile::clone(&loaded.profile)
}

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

#[test]
fn names_are_opened_for_what_rules_say() {
    let profile = profile(POLICY);
    assert!(profile.names_hosts());
    for (to, verdict, rule) in [
        ("tcp://api.example.com:443", Expect::Allow, "api"),
        ("tcp://API.Example.COM.:443", Expect::Allow, "api"),
        ("udp://api.example.com:443", Expect::Allow, "api"),
        ("tcp://api.example.com:80", Expect::Deny, "default"),
        ("tcp://api.example.com:22", Expect::Deny, "no-ssh"),
        ("tcp://x.api.example.com:443", Expect::Deny, "default"),
        ("tcp://example.com:443", Expect::Deny, "default"),
        ("tcp://evil.example.com:443", Expect::Deny, "evil"),
        ("tcp://asked.example.com:443", Expect::Ask, "asked"),
        ("tcp://a.one.example:80", Expect::Allow, "one"),
        ("tcp://a.one.example:90", Expect::Allow, "one"),
        ("tcp://a.one.example:91", Expect::Deny, "default"),
        ("tcp://one.example:80", Expect::Deny, "default"),
        ("tcp://a.b.one.example:80", Expect::Deny, "default"),
        ("tcp://any.example:1", Expect::Allow, "any"),
        ("udp://a.b.any.example:65535", Expect::Allow, "any"),
        ("tcp://xany.example:1", Expect::Deny, "default"),
        // 256 has the byte that ends names at its end.
        ("tcp://api.example.com:256", Expect::Deny, "default"),
    ] {
        let address = parse_destination(to).expect(to);
        let explained = explain(&profile, &Ask::Connect { address });
        assert_eq!(
            (explained.verdict, explained.rule.as_str()),
            (verdict, rule),
            "{to}"
        );
        assert!(explained.note.is_some() || verdict == Expect::Deny, "{to}");
    }
}

#[test]
fn what_nothing_can_be_done_with_is_not_looked_up() {
    let closed = profile(POLICY);
    let open = profile(&format!("{POLICY}\n[default]\nconnect = \"allow\"\n"));
    for (text, verdict, by_default) in [
        ("api.example.com", Verdict::Allow, Verdict::Allow),
        ("asked.example.com", Verdict::Ask, Verdict::Ask),
        ("evil.example.com", Verdict::Deny, Verdict::Deny),
        ("evil.any.example", Verdict::Allow, Verdict::Allow),
        ("other.example", Verdict::Deny, Verdict::Allow),
        // Only one port of it is closed.
        ("www.example.com", Verdict::Deny, Verdict::Allow),
    ] {
        for (profile, verdict) in [(&closed, verdict), (&open, by_default)] {
            let decision = profile.lookup(&name(text));
            assert_eq!(decision.outcome.verdict(), Some(verdict), "{text}");
        }
    }
}

/// What is said of an address that was answered for these names.
fn said(profile: &CompiledProfile, to: &str, names: &[&str], class: u8) -> (u32, String) {
    let to = parse_destination(to).expect(to);
    let names: Vec<(HostName, u8)> = names.iter().map(|text| (name(text), class)).collect();
    let decision = profile.connect(&to, &names);
    (
        decision.outcome.rank(),
        profile.rule_id(decision.outcome).to_owned(),
    )
}

#[test]
fn an_address_is_what_its_names_and_itself_are() {
    let profile = profile(POLICY);
    let rank = |verdict: Verdict| verdict as u32;
    for (to, names, class, verdict, rule) in [
        (
            "tcp://198.51.100.1:443",
            &["api.example.com"][..],
            PUBLIC,
            Verdict::Allow,
            "api",
        ),
        (
            "tcp://198.51.100.1:443",
            &[],
            PUBLIC,
            Verdict::Deny,
            "default",
        ),
        (
            "tcp://198.51.100.1:443",
            &["other.example"],
            PUBLIC,
            Verdict::Deny,
            "default",
        ),
        // The stricter of two names.
        (
            "tcp://198.51.100.1:443",
            &["api.example.com", "evil.example.com"],
            PUBLIC,
            Verdict::Deny,
            "evil",
        ),
        (
            "tcp://198.51.100.1:443",
            &["asked.example.com", "api.example.com"],
            PUBLIC,
            Verdict::Ask,
            "asked",
        ),
        (
            "tcp://198.51.100.1:443",
            &["other.example", "api.example.com"],
            PUBLIC,
            Verdict::Allow,
            "api",
        ),
        // An address's own rule.
        (
            "tcp://203.0.113.9:25",
            &["a.any.example"],
            PUBLIC,
            Verdict::Deny,
            "network",
        ),
        (
            "tcp://10.1.1.1:5432",
            &[],
            PRIVATE,
            Verdict::Allow,
            "inside",
        ),
        (
            "tcp://10.1.1.1:5432",
            &["evil.example.com"],
            PRIVATE,
            Verdict::Deny,
            "evil",
        ),
        // Inside.
        (
            "tcp://10.1.1.1:443",
            &["api.example.com"],
            PRIVATE,
            Verdict::Deny,
            "default",
        ),
        (
            "tcp://10.1.1.1:443",
            &["git.corp.example"],
            PRIVATE,
            Verdict::Allow,
            "inside",
        ),
        (
            "tcp://198.51.100.1:443",
            &["git.corp.example"],
            PUBLIC,
            Verdict::Allow,
            "inside",
        ),
    ] {
        assert_eq!(
            said(&profile, to, names, class),
            (rank(verdict), rule.to_owned()),
            "{to} as {names:?}"
        );
    }
    // More names than the kernel takes at once.
    let many: Vec<String> = (0..20)
        .map(|number| format!("n{number}.any.example"))
        .collect();
    let mut names: Vec<&str> = many.iter().map(String::as_str).collect();
    names.push("evil.example.com");
    let found = said(&profile, "tcp://198.51.100.1:443", &names, PUBLIC);
    assert_eq!(found, (rank(Verdict::Deny), "evil".to_owned()));
}

#[test]
fn lookups_of_others_are_closed_where_only_the_default_opens_them() {
    let socket = "unix:/run/systemd/resolve/io.systemd.Resolve";
    let asked = |text: &str| {
        let address = parse_destination(socket).expect("a socket");
        let explained = explain(&profile(text), &Ask::Connect { address });
        (explained.verdict, explained.rule)
    };
    let open = "version = 1\n[default]\nconnect = \"allow\"\n";
    let host = "[[deny]]\nconnect = \"evil.example\"\n";
    assert_eq!(asked(open).0, Expect::Allow);
    assert_eq!(
        asked(&format!("{open}{host}")),
        (Expect::Deny, "agentguard/name-services".to_owned())
    );
    let own = "[[allow]]\nid = \"own\"\nconnect = \"unix:/run/systemd/**\"\n";
    assert_eq!(
        asked(&format!("{open}{host}{own}")),
        (Expect::Allow, "own".to_owned())
    );
    let audit = "version = 1\nmode = \"audit\"\n[default]\nconnect = \"allow\"\n";
    assert_eq!(asked(&format!("{audit}{host}")).0, Expect::Deny);
}

#[test]
fn a_scheme_opens_the_kind_of_socket() {
    let ping = profile("version = 1\n[[allow]]\nconnect = \"icmp://ping.example\"\n");
    assert!(ping.names(agentguard_common::profile::named::ICMP));
    let sctp = profile("version = 1\n[[allow]]\nconnect = \"sctp://**.sig.example:2905\"\n");
    assert!(sctp.names(agentguard_common::profile::named::SCTP));
    assert!(!sctp.names(agentguard_common::profile::named::ICMP));
    assert!(!profile(POLICY).names(agentguard_common::profile::named::ICMP));
}

#[test]
fn a_profile_without_hosts_leaves_lookups_alone() {
    let none = profile("version = 1\n[[allow]]\nconnect = \"udp://192.0.2.53:53\"\n");
    assert!(!none.names_hosts());
    let address = parse_destination("tcp://api.example.com:443").expect("a host");
    let explained = explain(&none, &Ask::Connect { address });
    assert_eq!(explained.verdict, Expect::Deny);
    assert!(
        explained
            .note
            .is_some_and(|note| note.contains("names no hosts"))
    );
}

fn host() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec![
        "a", "b", "api", "any", "one", "corp", "evil", "example", "com", "x-1",
    ]);
    prop::collection::vec(label, 1..5).prop_map(|labels| labels.join("."))
}

fn rules() -> impl Strategy<Value = String> {
    let front = prop::sample::select(vec!["", "*.", "**."]);
    let scheme = prop::sample::select(vec!["", "tcp://", "udp://"]);
    let ports = prop::sample::select(vec!["", ":443", ":1-300", ":*", ":256"]);
    let list = prop::sample::select(vec!["deny", "ask", "allow"]);
    let rule = (list, scheme, front, host(), ports, any::<bool>()).prop_map(
        |(list, scheme, front, host, ports, private)| {
            let private = if private && list != "deny" {
                "private = true\n"
            } else {
                ""
            };
            format!("[[{list}]]\nconnect = \"{scheme}{front}{host}{ports}\"\n{private}")
        },
    );
    prop::collection::vec(rule, 1..8).prop_map(|rules| rules.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn going_on_after_a_name_is_asking_about_all_of_it(
        rules in rules(),
        hosts in prop::collection::vec(host(), 1..6),
        protocol in prop::sample::select(vec![6_u8, 17, 47, 0]),
        port in prop::sample::select(vec![0_u16, 1, 47, 80, 256, 300, 443, 65_535]),
        class in prop::sample::select(vec![PUBLIC, PRIVATE]),
    ) {
        // Rules that are shadowed are no policy.
        let text = format!("version = 1\n{rules}");
        let Ok(loaded) = load_text("policy.toml", &text, &Capabilities::all()) else { return Ok(()) };
        let profile = CompiledProfile::clone(&loaded.profile);
        let only = verb::bit(verb::ONLY);
        for host in hosts {
            let host = name(&host);
            let whole = host.service(class, protocol, port);
            let whole = simulator::ask(&profile, Subject::Name, only, &Object::new(&whole));
            let bytes = service(protocol, port);
            let mut rest = Object::new(&bytes);
            rest.text = Text::Named;
            rest.aliases = vec![Met {
                states: [profile.states_after(&host, class); PATH_SUBJECTS],
                from: 0,
            }];
            let rest = simulator::ask(&profile, Subject::Name, only, &rest);
            prop_assert_eq!(whole, rest);
            // What may be connected to may be looked up.
            if whole.reason == Reason::Rule && whole.outcome.rank() <= Verdict::Ask as u32 {
                prop_assert!(profile.lookup(&host).outcome.rank() <= Verdict::Ask as u32);
            }
            let to = Destination::Host { protocol, name: host, port };
            prop_assert_eq!(to.encode()[0], PUBLIC);
        }
    }
}
