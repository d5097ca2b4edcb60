//! Renames and links of made-up names under made-up rules, against the language's definition: the old
//! name's verdict stands where it is the stricter, and nothing below a directory is judged otherwise than
//! before.

use agentguard::policy::simulator::{Move, Object, ask_move};
use agentguard_common::{Verdict, event::Reason, profile::verb};

use super::*;

const DELETE: u32 = verb::bit(verb::DELETE) as u32;
const CREATE: u32 = verb::bit(verb::CREATE) as u32;

const RENAME: Move = Move {
    wanted: [DELETE, CREATE],
    exchange: false,
    below: false,
};

fn rank(rules: &[PlainRule], path: &str, access: Access) -> u32 {
    winner(rules, path, access).map_or(Verdict::Allow as u32, |number| rules[number].rank())
}

/// What the language says of a rename, leaving aside what is below.
fn expected(rules: &[PlainRule], old: &str, new: &str, need: Move) -> u32 {
    let own = |path: &str, wanted: u32| {
        Access::ALL
            .into_iter()
            .filter(|access| wanted & (1 << access.verb()) != 0)
            .map(|access| rank(rules, path, access))
            .max()
            .unwrap_or(0)
    };
    let lifted = |from: &str, to: &str| {
        Access::ALL
            .into_iter()
            .map(|access| (rank(rules, from, access), rank(rules, to, access)))
            .filter(|(from, to)| from > to)
            .map(|(from, _)| from)
            .max()
            .unwrap_or(0)
    };
    let mut rank = own(old, need.wanted[0])
        .max(own(new, need.wanted[1]))
        .max(lifted(old, new));
    if need.exchange {
        rank = rank.max(lifted(new, old));
    }
    rank
}

/// The rules as a profile. Exceptions that except nothing are errors; then all are left out.
fn profile(rules: &mut [PlainRule]) -> CompiledProfile {
    let dir = tempfile::tempdir().expect("a folder");
    let main = dir.path().join("main.toml");
    let text = "version = 1\ninclude = \"rules\"\n[default]\nfile = \"allow\"\n";
    std::fs::write(&main, text).expect("a file");
    let load = |rules: &[PlainRule]| {
        std::fs::write(dir.path().join("rules.toml"), written(rules)).expect("a file");
        load_file(&main, &Capabilities::all())
    };
    let loaded = load(rules).or_else(|_| {
        rules.iter_mut().for_each(|rule| rule.except.clear());
        load(rules)
    });
    let loaded = loaded.unwrap_or_else(|found| panic!("{found}"));
    CompiledProfile::clone(&loaded.profile)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn moving_never_lifts_a_protection(
        mut rules in prop::collection::vec(rule(), 1..7),
        names in prop::collection::vec((path(), path()), 1..12),
        below in prop::collection::vec(path(), 1..8),
        (overwrites, exchange) in any::<(bool, bool)>(),
    ) {
        let profile = profile(&mut rules);
        let mut need = RENAME;
        if exchange {
            need = Move { wanted: [DELETE | CREATE; 2], exchange, below: false };
        } else if overwrites {
            need.wanted[1] |= DELETE;
        }
        for (old, new) in &names {
            let objects = (Object::new(old.as_bytes()), Object::new(new.as_bytes()));
            let (decision, _) = ask_move(&profile, &objects.0, &objects.1, need);
            let expected = expected(&rules, old, new, need);
            prop_assert_eq!(decision.outcome.rank(), expected, "{} {}", old, new);
            let directory = Move { below: true, ..need };
            let (decision, _) = ask_move(&profile, &objects.0, &objects.1, directory);
            if expected > Verdict::Allow as u32 {
                prop_assert_eq!(decision.outcome.rank(), expected, "{} {}", old, new);
                continue;
            }
            let refused = decision.outcome.rank() > Verdict::Allow as u32;
            prop_assert_eq!(refused, decision.reason == Reason::WouldLift);
            for rest in &below {
                for access in Access::ALL {
                    let before = rank(&rules, &format!("{old}{rest}"), access);
                    let after = rank(&rules, &format!("{new}{rest}"), access);
                    prop_assert!(refused || before == after, "{} {} {}", old, new, rest);
                }
            }
            // A directory that only changes its name where no rule looks at it.
            if old == new {
                prop_assert!(!refused);
            }
        }
    }
}

fn directory(text: &str, old: &str, new: &str) -> Reason {
    let profile = load(text).profile;
    let need = Move {
        below: true,
        ..RENAME
    };
    let objects = (Object::new(old.as_bytes()), Object::new(new.as_bytes()));
    ask_move(&profile, &objects.0, &objects.1, need).0.reason
}

#[test]
fn directories_move_freely_unless_it_lifts_something() {
    let text = deny(&[
        "**/.env",
        "/home/*/.ssh/**",
        "/srv/*/key",
        "**/.git/hooks/**",
    ]);
    for (old, new, reason) in [
        ("/srv/a", "/srv/b", Reason::Default),
        ("/home/u/a", "/home/u/b", Reason::Default),
        ("/srv/a/b", "/tmp/b", Reason::Default),
        ("/home/u/.ssh", "/home/u/x", Reason::Rule),
        ("/home/u/x", "/home/u/.ssh", Reason::Rule),
        ("/home/u", "/home/v", Reason::Default),
        ("/home/u", "/tmp/u", Reason::WouldLift),
        ("/home", "/h", Reason::WouldLift),
        ("/srv/a", "/tmp/a", Reason::WouldLift),
        ("/tmp/a", "/srv/a", Reason::WouldLift),
        ("/tmp/prepared", "/tmp/.git", Reason::WouldLift),
        ("/tmp/p/.git", "/tmp/p/x", Reason::WouldLift),
        ("/tmp/p", "/tmp/q", Reason::Default),
    ] {
        assert_eq!(directory(&text, old, new), reason, "{old} {new}");
    }
}
