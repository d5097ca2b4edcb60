//! Properties of compiled policies, tried on made-up rules and objects: patterns against two plain
//! matchers (globset where its meaning is ours, and one that follows the language's definition word by
//! word), addresses against ipnet, whole profiles against an evaluation without automata, and the tables
//! against their own bounds.

#[path = "policy_properties/moves.rs"]
mod moves;
#[path = "policy_properties/plain.rs"]
mod plain;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use agentguard::policy::{
    Access, Ask, Capabilities, CompiledProfile, Expect, Loaded, explain, load_file, load_text,
    parse_destination,
};
use agentguard_common::{
    automaton::{self, ABSENT, ACCEPT, DEFAULTS, IDLE, RESTRICTS, SINK, STATE, Tables, VERBS},
    profile::{self, Subject},
};
use globset::GlobBuilder;
use ipnet::IpNet;
use proptest::{prelude::*, test_runner::FileFailurePersistence};

/// Names that patterns and paths are made of: few, so that they meet.
const NAMES: [&str; 7] = ["a", "b", "ab", "ba", "abc", ".a", "a.b"];

/// Failing inputs are kept beside this file.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

fn load(text: &str) -> Loaded {
    load_text("made.toml", text, &Capabilities::all())
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}\n{text}"))
}

fn open(path: &str, access: Access) -> Ask {
    Ask::Open {
        path: path.as_bytes().to_vec(),
        access: vec![access],
    }
}

/// Whether a file rule with this pattern matches a path.
fn matches(profile: &CompiledProfile, path: &str) -> bool {
    explain(profile, &open(path, Access::Read)).verdict == Expect::Deny
}

fn deny(patterns: &[&str]) -> String {
    let mut text = "version = 1\n[default]\nfile = \"allow\"\n".to_owned();
    for pattern in patterns {
        let _ = write!(text, "[[deny]]\nfile = '{pattern}'\n");
    }
    text
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => prop::sample::select(NAMES.as_slice()).prop_map(str::to_owned),
        1 => "[abc.]{3,4}",
    ];
    prop::collection::vec(name, 1..5).prop_map(|names| format!("/{}", names.join("/")))
}

/// A component of a pattern that means the same to globset.
fn plain_component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(NAMES.as_slice()).prop_map(str::to_owned),
        1 => Just("*".to_owned()),
        1 => Just("a*".to_owned()),
        1 => Just("*b".to_owned()),
        1 => Just("a*b*".to_owned()),
        1 => Just("?".to_owned()),
        1 => Just("?b".to_owned()),
        1 => Just("[ab]".to_owned()),
        1 => Just("[a-c]b".to_owned()),
        1 => Just("{a,ba}".to_owned()),
        1 => Just("{a,b{c,}}b".to_owned()),
        2 => Just("**".to_owned()),
    ]
}

/// The rest of what a component may be.
fn any_component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => plain_component(),
        1 => Just("[!a]".to_owned()),
        1 => Just("[!a-b]b".to_owned()),
        1 => Just(r"\a".to_owned()),
        1 => Just(r"a[.\]]b".to_owned()),
        1 => Just("{a/b,b}".to_owned()),
        1 => Just("*{.a,b}*".to_owned()),
    ]
}

fn pattern_of(component: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let floating = prop::bool::weighted(0.3);
    (floating, prop::collection::vec(component, 1..5)).prop_map(|(floating, components)| {
        let front = if floating { "**/" } else { "/" };
        let mut components = components;
        // `**` alone is refused: it would be every path.
        if floating && components.iter().all(|component| component == "**") {
            components.push("a".to_owned());
        }
        format!("{front}{}", components.join("/"))
    })
}

/// What globset makes of our pattern, without the `/` in front, since it knows components that are empty.
/// `/x/**` is `/x` as well, which it leaves out.
fn globset_matches(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_start_matches('/');
    let path = path.trim_start_matches('/');
    let glob = |pattern: &str| {
        GlobBuilder::new(pattern)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .expect("a glob")
            .compile_matcher()
    };
    let mut front = pattern;
    while let Some(shorter) = front.strip_suffix("/**") {
        front = shorter;
    }
    glob(pattern).is_match(path)
        || front == "**"
        || (front != pattern && glob(front).is_match(path))
}

/// One argument, or the pattern of one, of few bytes, so that they meet.
fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(NAMES.as_slice()).prop_map(str::to_owned),
        1 => Just(String::new()),
        1 => Just("a/b".to_owned()),
        1 => "[ab/]{1,3}",
    ]
}

fn argument_pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => argument(),
        1 => Just("*".to_owned()),
        1 => Just("a*".to_owned()),
        1 => Just("*/b*".to_owned()),
        1 => Just("?".to_owned()),
        3 => Just("**".to_owned()),
    ]
}

/// Programs and patterns of them that some match.
const PROGRAMS: [&str; 4] = ["/a/b", "/a", "/a/ab/b", "/b"];
const PROGRAM_PATTERNS: [&str; 7] = ["/a/b", "/a/*", "/a/**", "**/b", "/**/ab/*", "/**", "/?"];

proptest! {
    #![proptest_config(cases(400))]

    /// Rules that look at arguments against one that compares argument by argument.
    #[test]
    fn arguments_match_as_the_language_says(
        rules in prop::collection::vec((
            prop::sample::select(PROGRAM_PATTERNS.as_slice()),
            prop::option::of(prop::sample::select(PROGRAMS.as_slice())),
            prop::collection::vec(argument_pattern(), 0..4),
            0_usize..3,
        ), 1..5),
        questions in prop::collection::vec((
            prop::sample::select(PROGRAMS.as_slice()),
            prop::collection::vec(argument(), 0..5),
        ), 1..12),
    ) {
        let mut text = "version = 1\n[default]\nexec = \"allow\"\n".to_owned();
        for (program, except, args, list) in &rules {
            let list = ["deny", "ask", "allow"][*list];
            let _ = write!(text, "[[{list}]]\nexec = '{program}'\n");
            if let Some(except) = except {
                let _ = writeln!(text, "except = '{except}'");
            }
            if !args.is_empty() {
                let _ = writeln!(text, "args = {args:?}");
            }
        }
        // Rules that are shadowed or except nothing are refused; what is left is judged.
        let Ok(loaded) = load_text("made.toml", &text, &Capabilities::all()) else {
            return Ok(());
        };
        for (program, args) in questions {
            let strictest = rules
                .iter()
                .filter(|(pattern, except, patterns, _)| {
                    plain::matches(pattern, program)
                        && except.is_none_or(|except| except != program)
                        && (patterns.is_empty() || plain::arguments_match(patterns, &args))
                })
                .map(|(.., list)| *list)
                .min();
            let expected = [Expect::Deny, Expect::Ask, Expect::Allow][strictest.unwrap_or(2)];
            let ask = Ask::Exec {
                path: program.as_bytes().to_vec(),
                args: args.iter().map(|text| text.clone().into_bytes()).collect(),
            };
            let found = explain(&loaded.profile, &ask);
            prop_assert_eq!(found.verdict, expected, "{}\n{}", text, found);
        }
    }

    #[test]
    fn patterns_match_what_globset_matches(
        pattern in pattern_of(plain_component()),
        paths in prop::collection::vec(path(), 1..20),
    ) {
        let profile = load(&deny(&[&pattern])).profile;
        for path in &paths {
            prop_assert_eq!(
                matches(&profile, path),
                globset_matches(&pattern, path),
                "{} {}", pattern, path
            );
        }
    }

    #[test]
    fn patterns_match_what_their_definition_says(
        pattern in pattern_of(any_component()),
        paths in prop::collection::vec(path(), 1..20),
    ) {
        let profile = load(&deny(&[&pattern])).profile;
        for path in &paths {
            prop_assert_eq!(
                matches(&profile, path),
                plain::matches(&pattern, path),
                "{} {}", pattern, path
            );
        }
    }
}

/// A rule as the naive evaluation sees it.
#[derive(Clone, Debug)]
struct PlainRule {
    list: &'static str,
    kill: bool,
    patterns: Vec<String>,
    except: Vec<String>,
    access: Vec<Access>,
}

impl PlainRule {
    fn matches(&self, path: &str, access: Access) -> bool {
        let any =
            |patterns: &[String]| patterns.iter().any(|pattern| plain::matches(pattern, path));
        self.access.contains(&access) && any(&self.patterns) && !any(&self.except)
    }

    fn rank(&self) -> u32 {
        match (self.list, self.kill) {
            ("deny", true) => 4,
            ("deny", false) => 3,
            ("ask", _) => 2,
            _ => 1,
        }
    }
}

fn rule() -> impl Strategy<Value = PlainRule> {
    let patterns = || prop::collection::vec(pattern_of(any_component()), 1..3);
    let except = prop_oneof![3 => Just(Vec::new()), 1 => patterns()];
    let access = prop_oneof![
        2 => Just(Access::ALL.to_vec()),
        1 => prop::sample::subsequence(Access::ALL.to_vec(), 1..5),
    ];
    let list = prop::sample::select(["deny", "deny", "ask", "allow"].as_slice());
    (list, any::<bool>(), patterns(), except, access).prop_map(
        |(list, kill, mut patterns, mut except, access)| {
            // Written twice is a warning; a set says the same.
            patterns.sort();
            patterns.dedup();
            except.sort();
            except.dedup();
            PlainRule {
                list,
                kill: kill && list == "deny",
                patterns,
                except,
                access,
            }
        },
    )
}

fn written(rules: &[PlainRule]) -> String {
    let mut text = String::from("version = 1\n[default]\nfile = \"allow\"\n");
    let list = |patterns: &[String]| {
        let quoted: Vec<String> = patterns
            .iter()
            .map(|pattern| format!("'{pattern}'"))
            .collect();
        format!("[{}]", quoted.join(", "))
    };
    for (number, rule) in rules.iter().enumerate() {
        let _ = write!(
            text,
            "[[{}]]\nid = \"{number}\"\nfile = {}\n",
            rule.list,
            list(&rule.patterns)
        );
        if !rule.except.is_empty() {
            let _ = writeln!(text, "except = {}", list(&rule.except));
        }
        let access: Vec<String> = rule
            .access
            .iter()
            .map(|access| format!("\"{}\"", access.name()))
            .collect();
        let _ = writeln!(text, "access = [{}]", access.join(", "));
        if rule.kill {
            text.push_str("kill = true\n");
        }
    }
    text
}

/// The number of the rule that must win: the strictest, of equals the first.
fn winner(rules: &[PlainRule], path: &str, access: Access) -> Option<usize> {
    rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.matches(path, access))
        .min_by_key(|(number, rule)| (std::cmp::Reverse(rule.rank()), *number))
        .map(|(number, _)| number)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn profiles_decide_as_their_rules_do_one_by_one(
        mut rules in prop::collection::vec(rule(), 1..9),
        paths in prop::collection::vec(path(), 1..30),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let main = dir.path().join("main.toml");
        std::fs::write(&main, "version = 1\ninclude = \"rules\"\n[default]\nfile = \"allow\"\n")
            .expect("a file");
        let included = dir.path().join("rules.toml");
        // What is wrong with the rules must be true; what is left must work.
        for round in 0..2 {
            let text = written(&rules);
            std::fs::write(&included, &text).expect("a file");
            let Err(found) = load_file(&included, &Capabilities::all()) else { break };
            let mut idle = BTreeSet::new();
            for finding in found.iter() {
                let number = text.lines().take(finding.line as usize)
                    .filter(|line| line.starts_with("[[")).count() - 1;
                match finding.code {
                    "shadowed" => for path in &paths {
                        for access in Access::ALL {
                            prop_assert_ne!(winner(&rules, path, access), Some(number), "{}", path);
                        }
                    },
                    "idle-except" => {
                        let pattern = finding.text.trim_matches('\'').to_owned();
                        let rule = &rules[number];
                        for path in &paths {
                            let hit = rule.patterns.iter().any(|other| plain::matches(other, path));
                            prop_assert!(!(hit && plain::matches(&pattern, path)), "{}", path);
                        }
                        idle.insert((number, pattern));
                    }
                    _ => panic!("{found}\n{text}"),
                }
            }
            prop_assert!(round == 0 || idle.is_empty());
            for (number, pattern) in idle {
                rules[number].except.retain(|except| *except != pattern);
            }
        }
        let profile = load_file(&main, &Capabilities::all())
            .unwrap_or_else(|found| panic!("{found}"))
            .profile;
        for path in &paths {
            for access in Access::ALL {
                let answer = explain(&profile, &open(path, access));
                let expected = winner(&rules, path, access)
                    .map_or("default".to_owned(), |number| number.to_string());
                prop_assert_eq!(answer.rule, expected, "{} {:?}", path, access);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn tables_hold_together(
        patterns in prop::collection::vec(pattern_of(any_component()), 1..12),
        net in net(),
    ) {
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let rules = deny(&patterns);
        let address = bracketed(&net.to_string());
        let text = format!("{rules}[[deny]]\nconnect = \"{address}:5-5000\"\n");
        check_tables(&load(&text).profile)?;
    }
}

/// The arena with nothing in it but the profile, at a place of its own.
struct Arena {
    at: u32,
    cells: Vec<u64>,
}

impl Tables for Arena {
    fn cell(&self, index: u32) -> Option<u64> {
        self.cells
            .get(index.checked_sub(self.at)? as usize)
            .copied()
    }
}

/// Walks every state over every byte: no cell outside of the profile is ever asked for, sinks are sinks,
/// and the flag for denials ahead is right.
fn check_tables(profile: &CompiledProfile) -> Result<(), TestCaseError> {
    let at = 12_345;
    let arena = Arena {
        at,
        cells: profile.install(at, 7),
    };
    let descriptor = profile.descriptor(at);
    prop_assert_eq!(
        profile::header(&arena, descriptor).map(|(install, ..)| install),
        Some(7)
    );
    let mut states = 0;
    for subject in [
        Subject::File,
        Subject::Exec,
        Subject::Connect,
        Subject::Unix,
        Subject::Listen,
        Subject::Args,
        Subject::Name,
    ] {
        let subject = subject as u32;
        let cursor = profile::cursor(&arena, descriptor, subject).expect("inside");
        for verb in 0..VERBS {
            let default = profile::default_outcome(&arena, descriptor, subject, verb);
            prop_assert!(default.is_some_and(|outcome| outcome.rank() > 0));
        }
        for (base, start) in cursor.base.into_iter().zip(cursor.state) {
            if base == ABSENT {
                continue;
            }
            states += check_automaton(&arena, base, start)?;
        }
    }
    prop_assert_eq!(states, profile.stats.states);
    Ok(())
}

fn check_automaton(arena: &Arena, base: u32, start: u32) -> Result<u32, TestCaseError> {
    let mut seen = BTreeSet::from([start]);
    let mut open = vec![start];
    let mut denying = BTreeSet::new();
    let mut edges = BTreeSet::new();
    while let Some(state) = open.pop() {
        for cell in [DEFAULTS, ACCEPT] {
            prop_assert!(arena.cell(base + (state & STATE) + cell).is_some());
        }
        let (row, _) = automaton::accept(arena, base, state).expect("inside");
        for verb in 0..VERBS {
            if row != 0 {
                let outcome = automaton::row_outcome(arena, row, verb).expect("inside");
                prop_assert!(outcome.verdict().is_some());
                if outcome.rank() > 1 {
                    denying.insert(state);
                }
            }
        }
        let mut is_idle = state & SINK == 0;
        for byte in 0..=255 {
            let next = automaton::step(arena, base, state, byte).expect("inside");
            is_idle &= byte == b'/' || next == state;
            if state & SINK != 0 {
                prop_assert_eq!(next, state);
            }
            edges.insert((state, next));
            if seen.insert(next) {
                open.push(next);
            }
        }
        prop_assert_eq!(state & IDLE != 0, is_idle);
    }
    let mut before: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (state, next) in edges {
        before.entry(next).or_default().insert(state);
    }
    let mut open: Vec<u32> = denying.iter().copied().collect();
    while let Some(state) = open.pop() {
        for earlier in before.get(&state).into_iter().flatten() {
            if denying.insert(*earlier) {
                open.push(*earlier);
            }
        }
    }
    for state in &seen {
        let (_, flags) = automaton::accept(arena, base, *state).expect("inside");
        prop_assert_eq!(flags & RESTRICTS != 0, denying.contains(state));
    }
    Ok(seen.len() as u32)
}

/// Addresses that are near each other, of both families, and mapped ones.
fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..4, 0_u32..4)
            .prop_map(|(high, low)| IpAddr::from((0x0a00_0000 + (high << 16) + low).to_be_bytes())),
        any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        (0_u128..4, 0_u128..4).prop_map(|(high, low)| IpAddr::from(
            ((0x2001_0db8 << 96) + (high << 60) + low).to_be_bytes()
        )),
        any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        any::<u8>()
            .prop_map(|low| IpAddr::from((0xffff_0a00_0000 + u128::from(low)).to_be_bytes())),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), any::<prop::sample::Index>()).prop_map(|(ip, prefix)| {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, prefix.index(most + 1) as u8)
            .expect("a prefix length")
            .trunc()
    })
}

/// What the language says an address is.
fn meant(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn meant_net(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => IpNet::new(v4.into(), v6.prefix_len() - 96).expect("a prefix length"),
            None => net,
        },
        IpNet::V6(_) | IpNet::V4(_) => net,
    }
}

fn covers(net: IpNet, ip: IpAddr) -> bool {
    // The unspecified address, as a destination, is this host.
    let loopback: IpAddr = match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        _ => ip,
    };
    net.contains(&ip) || net.contains(&loopback)
}

fn bracketed(text: &str) -> String {
    match text.split_once('/') {
        _ if !text.contains(':') => text.to_owned(),
        Some((address, prefix)) => format!("[{address}]/{prefix}"),
        None => format!("[{text}]"),
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn addresses_match_what_ipnet_contains(
        net in net(),
        scheme in prop::sample::select(["", "tcp://", "udp://"].as_slice()),
        ports in (any::<u16>(), any::<u16>()),
        ips in prop::collection::vec(ip(), 1..12),
        inside in any::<u128>(),
        offsets in prop::collection::vec(0_u32..65_536, 1..4),
    ) {
        let (low, high) = (ports.0.min(ports.1), ports.0.max(ports.1));
        let text = format!(
            "version = 1\n[default]\nconnect = \"allow\"\n[[deny]]\nconnect = \"{scheme}{}:{low}-{high}\"\n",
            bracketed(&net.to_string())
        );
        let profile = load(&text).profile;
        // One address that is surely inside.
        let hit = match net {
            IpNet::V4(net) => IpAddr::from((u32::from(net.network()) | (inside as u32 & u32::from(net.hostmask()))).to_be_bytes()),
            IpNet::V6(net) => IpAddr::from((u128::from(net.network()) | (inside & u128::from(net.hostmask()))).to_be_bytes()),
        };
        let ports = offsets
            .iter()
            .map(|offset| *offset as u16)
            .chain([low, high, low.wrapping_sub(1), high.wrapping_add(1)]);
        for port in ports {
            for ip in ips.iter().chain([&hit]) {
                for protocol in ["tcp", "udp"] {
                    let asked = format!("{protocol}://{}:{port}", bracketed(&ip.to_string()));
                    let address = parse_destination(&asked).expect("an address");
                    let expected = (scheme.is_empty() || scheme.starts_with(protocol))
                        && (low..=high).contains(&port)
                        && covers(meant_net(net), meant(*ip));
                    let found = explain(&profile, &Ask::Connect { address }).verdict;
                    prop_assert_eq!(found == Expect::Deny, expected, "{} {}", text, asked);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn vsock_addresses_match_their_ranges(
        ports in (any::<u32>(), any::<u32>()),
        others in prop::collection::vec(any::<u32>(), 1..8),
    ) {
        let (low, high) = (ports.0.min(ports.1), ports.0.max(ports.1));
        let text = format!("version = 1\n[[allow]]\nconnect = \"vsock:7:{low}-{high}\"\n");
        let profile = load(&text).profile;
        let near = [low, high, low.wrapping_sub(1), high.wrapping_add(1)];
        for port in near.into_iter().chain(others) {
            for cid in [7, 6, 7 << 24] {
                let address = parse_destination(&format!("vsock:{cid}:{port}")).expect("an address");
                let found = explain(&profile, &Ask::Connect { address }).verdict;
                let expected = cid == 7 && (low..=high).contains(&port);
                prop_assert_eq!(found == Expect::Allow, expected, "{} {} {}", text, cid, port);
            }
        }
    }
}

/// Kinds of sockets that a kernel gives an agent only when a rule names them.
#[test]
fn kinds_of_sockets_need_a_rule_with_their_scheme() {
    let asked = [
        "sctp://192.0.2.1:7",
        "icmp://192.0.2.1",
        "icmp://2001:db8::1",
        "vsock:2:7",
    ];
    let allowed = |rules: &str| {
        let text = format!("version = 1\n[default]\nconnect = \"allow\"\n{rules}");
        let profile = load(&text).profile;
        asked.map(|text| {
            let address = parse_destination(text).expect("an address");
            explain(&profile, &Ask::Connect { address }).verdict == Expect::Allow
        })
    };
    assert_eq!(allowed(""), [false; 4]);
    assert_eq!(allowed("[[allow]]\nconnect = \"192.0.2.1\"\n"), [false; 4]);
    assert_eq!(
        allowed("[[deny]]\nconnect = \"sctp://192.0.2.2\"\n"),
        [false; 4]
    );
    assert_eq!(
        allowed("[[allow]]\nconnect = \"sctp://192.0.2.2\"\n"),
        [true, false, false, false]
    );
    assert_eq!(
        allowed("[[allow]]\nlisten = \"sctp://192.0.2.2\"\n"),
        [true, false, false, false]
    );
    assert_eq!(
        allowed("[[allow]]\nconnect = \"icmp://*\"\n"),
        [false, true, true, false]
    );
    assert_eq!(
        allowed("[[ask]]\nconnect = \"vsock:3:7\"\n"),
        [false, false, false, true]
    );
}

#[test]
fn the_same_policy_always_gives_the_same_tables() {
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../policies/baseline.toml"
    ))
    .expect("the profile is there");
    let [first, second] = [load(&text).profile, load(&text).profile];
    assert_eq!(first.install(64, 3), second.install(64, 3));
    assert_eq!(first, second);
}
