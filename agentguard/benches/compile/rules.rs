//! Makes up policies of any size, always the same ones: for the benchmark and for the test of its limits.

use std::fmt::Write as _;

/// The kinds of pattern that rules are made of, in turn.
pub const KINDS: [&str; 5] = [
    "/etc/A/B",
    "/srv/A/**",
    "/home/*/A/*.C",
    "**/.A/B",
    "/opt/A/**/B",
];

/// A policy of `rules` rules, each with a pattern of one of `kinds`: `A` and `B` become words, `C` three
/// letters. Two thirds deny; the rest asks and allows. A third is about some accesses only.
pub fn policy(rules: usize, kinds: &[&str]) -> String {
    let mut text = String::from("version = 1\nname = \"made-up\"\n[default]\nfile = \"allow\"\n");
    for (index, pattern) in patterns(rules, kinds).enumerate() {
        let list = ["deny", "allow", "deny", "deny", "ask", "deny"][index / kinds.len() % 6];
        let access =
            ["", "", "access = [\"write\", \"create\", \"delete\"]\n"][index / kinds.len() % 3];
        let _ = write!(text, "[[{list}]]\nfile = \"{pattern}\"\n{access}");
    }
    text
}

/// The patterns of such a policy's rules.
pub fn patterns(rules: usize, kinds: &[&str]) -> impl Iterator<Item = String> {
    let mut words = Words(7);
    (0..rules).map(move |index| {
        let mut pattern = String::new();
        for part in kinds[index % kinds.len()].chars() {
            match part {
                'A' | 'B' => words.word(6, 10, &mut pattern),
                'C' => words.word(3, 3, &mut pattern),
                other => pattern.push(other),
            }
        }
        pattern
    })
}

/// A source of words (Knuth's MMIX linear congruential generator).
struct Words(u64);

impl Words {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn word(&mut self, shortest: u64, longest: u64, out: &mut String) {
        let len = shortest + self.below(longest - shortest + 1);
        for _ in 0..len {
            out.push(char::from(b'a' + self.below(26) as u8));
        }
    }
}
