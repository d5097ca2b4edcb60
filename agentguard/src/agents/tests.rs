use super::*;

#[test]
fn names_are_checked() {
    for good in ["a", "coding-01jc7x", "A.b_c-9", &"x".repeat(64)] {
        assert!(is_name(good), "{good}");
    }
    for bad in [
        "",
        ".x",
        "-x",
        "_x",
        "a/b",
        "a b",
        "ä",
        "a\n",
        &"x".repeat(65),
    ] {
        assert!(!is_name(bad), "{bad}");
    }
}

#[test]
fn names_are_made_of_cgroups() {
    for (path, name) in [
        ("/sys/fs/cgroup/a.slice/b-c.service", "b-c"),
        ("/sys/fs/cgroup/user@1000", "user-1000"),
        ("/sys/fs/cgroup/---", "agent"),
        ("/", "agent"),
    ] {
        assert_eq!(made_up(Path::new(path)), name);
        assert!(is_name(&made_up(Path::new(path))));
    }
    assert!(is_name(&made_up(Path::new(&"x".repeat(200)))));
}

#[test]
fn names_are_padded_and_read_back() {
    let name = padded("alice");
    assert_eq!(crate::event::text::padded(&name), b"alice");
}
