//! Whatever text is taken for a policy: it is read and talked about without a panic.

use agentguard::policy::{Capabilities, Style, load_text};
use proptest::{prelude::*, test_runner::FileFailurePersistence};

/// Failing inputs are kept beside this file.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn no_pattern_makes_the_reader_panic(
        key in prop::sample::select(["file", "exec", "connect", "listen"].as_slice()),
        pattern in r"[/*?{},!^~$@:.a-zé\\\[\]0-9-]{0,24}|\PC{0,24}",
        front in prop::sample::select(["", "/", "**/", "unix:", "unix:@", "tcp://", "["].as_slice()),
    ) {
        let pattern = format!("{front}{pattern}").replace(['\'', '\n', '\r'], "");
        let text = format!("version = 1\n[[deny]]\n{key} = '{pattern}'\n");
        speak(&text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(
        lines in prop::collection::vec(line(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = lines.join("\n");
        speak(&text);
        let cut = cut.index(text.len() + 1);
        speak(text.get(..cut).unwrap_or(&text));
    }
}

/// Reads a policy and says everything about it in every way.
fn speak(text: &str) {
    let found = match load_text("any.toml", text, &Capabilities::all()) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found,
    };
    for style in [Style::Plain, Style::Graphical] {
        let _ = found.render(style);
    }
    let _ = found.to_json();
}

/// Lines that policies are made of, and some that they aren't.
fn line() -> impl Strategy<Value = String> {
    let known = [
        "version = 1",
        "[[deny]]",
        "[[allow]]",
        "[[ask]]",
        "[[test]]",
        "[default]",
        "[log]",
        "[system]",
        "file = \"/a/**\"",
        "file = { read = \"ask\" }",
        "except = ['/a/é', \"/a/\\u00e9\"]",
        "connect = \"10.0.0.0/8\"",
        "access = \"read\"",
        "expect = \"deny\"",
        "open = \"/a\"",
        "timeout = \"1m\"",
        "id = \"\"\"x\"\"\"",
        "allow = \"first\"",
        "include = \"x\"",
        "\u{feff}",
    ];
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => "[a-z]{1,8} = [\"\\[{a-z0-9é/*}\\]]{0,12}",
        1 => "\\PC{0,20}",
    ]
}
