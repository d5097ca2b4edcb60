//! A matcher that follows the definition of path patterns word by word, without automata and in no hurry.
//! Shares no code with the one it is a measure for.

/// Whether a pattern matches an absolute path.
pub fn matches(pattern: &str, path: &str) -> bool {
    let components: Vec<&[u8]> = path.as_bytes()[1..].split(|byte| *byte == b'/').collect();
    alternatives(pattern).iter().any(|pattern| {
        let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
        let patterns: Vec<&str> = split(pattern);
        components_match(&patterns, &components)
    })
}

/// Whether patterns of arguments match arguments. Knows `*`, `?` and, alone, `**`.
pub fn arguments_match(patterns: &[String], arguments: &[String]) -> bool {
    match patterns.split_first() {
        None => arguments.is_empty(),
        Some((first, rest)) if first == "**" => {
            (0..=arguments.len()).any(|count| arguments_match(rest, &arguments[count..]))
        }
        Some((first, rest)) => arguments.split_first().is_some_and(|(argument, others)| {
            argument_matches(first.as_bytes(), argument.as_bytes()) && arguments_match(rest, others)
        }),
    }
}

fn argument_matches(pattern: &[u8], argument: &[u8]) -> bool {
    match pattern.split_first() {
        None => argument.is_empty(),
        Some((b'*', rest)) => {
            (0..=argument.len()).any(|count| argument_matches(rest, &argument[count..]))
        }
        Some((byte, rest)) => argument.split_first().is_some_and(|(first, others)| {
            (*byte == b'?' || byte == first) && argument_matches(rest, others)
        }),
    }
}

/// The patterns that the first `{…}` stands for, and theirs.
fn alternatives(pattern: &str) -> Vec<String> {
    let bytes = pattern.as_bytes();
    let Some(open) = special(bytes, 0, b'{') else {
        return vec![pattern.to_owned()];
    };
    let mut depth = 0;
    let mut at = open;
    let mut starts = vec![open + 1];
    let mut found = Vec::new();
    loop {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' => depth += 1,
            b',' if depth == 1 => starts.push(at + 1),
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
        at += 1;
    }
    for (index, start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).map_or(at, |next| next - 1);
        let whole = format!(
            "{}{}{}",
            &pattern[..open],
            &pattern[*start..end],
            &pattern[at + 1..]
        );
        found.extend(alternatives(&whole));
    }
    found
}

/// The first place of a byte that is neither escaped nor in a class.
fn special(bytes: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            byte if byte == wanted => return Some(at),
            b'\\' => at += 1,
            b'[' => at = class_end(bytes, at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn class_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    if bytes[at] == b'!' {
        at += 1;
    }
    loop {
        match bytes[at] {
            b'\\' => at += 1,
            b']' => return at,
            _ => {}
        }
        at += 1;
    }
}

fn split(pattern: &str) -> Vec<&str> {
    match special(pattern.as_bytes(), 0, b'/') {
        Some(at) => {
            let mut components = vec![&pattern[..at]];
            components.extend(split(&pattern[at + 1..]));
            components
        }
        None => vec![pattern],
    }
}

fn components_match(patterns: &[&str], components: &[&[u8]]) -> bool {
    match (patterns, components) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            (0..=components.len()).any(|skip| components_match(rest, &components[skip..]))
        }
        ([pattern, patterns @ ..], [component, components @ ..]) => {
            component_matches(pattern.as_bytes(), component)
                && components_match(patterns, components)
        }
        _ => false,
    }
}

fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            (0..=name.len()).any(|skip| component_matches(rest, &name[skip..]))
        }
        ([b'?', rest @ ..], [_, name @ ..]) => component_matches(rest, name),
        ([b'[', ..], [byte, name @ ..]) => {
            let end = class_end(pattern, 0);
            class_has(&pattern[1..end], *byte) && component_matches(&pattern[end + 1..], name)
        }
        ([b'\\', escaped, rest @ ..], [byte, name @ ..]) => {
            escaped == byte && component_matches(rest, name)
        }
        ([wanted, rest @ ..], [byte, name @ ..]) => wanted == byte && component_matches(rest, name),
        _ => false,
    }
}

fn class_has(class: &[u8], byte: u8) -> bool {
    let (negated, mut class) = match class {
        [b'!', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    while let [first, ..] = class {
        let skip = if *first == b'\\' { 1 } else { 0 };
        let low = class[skip];
        class = &class[skip + 1..];
        let mut high = low;
        if let [b'-', end, rest @ ..] = class {
            high = *end;
            class = rest;
        }
        found |= (low..=high).contains(&byte);
    }
    found != negated
}
