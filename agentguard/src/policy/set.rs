//! A folder of policy files: finds profiles by name, adds what they include, compiles them. Everything
//! that is wrong in any of them is found in one go.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentguard_common::profile::Subject;

use super::{
    capabilities::Capabilities,
    compile::{compile, overlap::overlap},
    diagnostic::{Diagnostic, Diagnostics, Severity},
    document,
    model::{Document, Rule, RulePattern},
    overlay,
    profile::{CompiledProfile, List},
    source::Source,
    testing::ProfileTest,
};

/// The rules that are always there.
const BUILTIN: &str = include_str!("builtin.toml");
/// What they give as their file.
pub const BUILTIN_FILE: &str = "builtin";

/// The file that events and `explain` name for the rules that profiles with rules about hosts have beside their own.
const NAME_SERVICES_FILE: &str = "builtin-hosts";
const NAME_SERVICES: &str = include_str!("name_services.toml");
/// Code of the finding that a profile isn't there.
pub const UNKNOWN_PROFILE: &str = "unknown-profile";
/// The ending of policy files.
const ENDING: &str = "toml";

/// Every profile of a folder, compiled.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    profiles: BTreeMap<String, Arc<CompiledProfile>>,
    /// What should be said about profiles that can be used.
    pub warnings: Diagnostics,
}

impl PolicySet {
    /// The profile with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<CompiledProfile>> {
        self.profiles.get(name)
    }

    /// All profiles in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledProfile>> {
        self.profiles.values()
    }

    pub fn len(&self) -> usize {
        self.profiles.len()
    }

    pub fn is_empty(&self) -> bool {
        self.profiles.is_empty()
    }

    /// Cells of 8 bytes that all profiles take together.
    pub fn len_cells(&self) -> u64 {
        self.iter()
            .map(|profile| u64::from(profile.len_cells()))
            .sum()
    }
}

/// One profile with everything its file says.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub profile: Arc<CompiledProfile>,
    pub tests: Vec<ProfileTest>,
    pub warnings: Diagnostics,
}

/// Loads every `*.toml` of a folder. Either all profiles can be used, or none is returned and the
/// errors are.
pub fn load_dir(dir: &Path, capabilities: &Capabilities) -> Result<PolicySet, Diagnostics> {
    let mut folder = Folder::new(dir);
    let paths = folder.list().map_err(|error| {
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(Diagnostic::whole_file(
            dir.display().to_string(),
            "unreadable",
            format!("cannot read policy folder {}: {error}", dir.display()),
            None,
        ));
        diagnostics
    })?;
    let mut set = PolicySet::default();
    let mut diagnostics = Diagnostics::default();
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in paths {
        let Some(loaded) = folder.load(&path, capabilities, &mut diagnostics) else {
            continue;
        };
        let name = loaded.profile.name.clone();
        if let Some(other) = names.insert(name.clone(), path.clone()) {
            diagnostics.push(Diagnostic::whole_file(
                path.display().to_string(),
                "duplicate-profile",
                format!("profile \"{name}\" is also in {}", other.display()),
                "give one of them another name".to_owned(),
            ));
        }
        set.profiles.insert(name, loaded.profile);
    }
    for path in list_dir(&dir.join(overlay::FOLDER)).unwrap_or_default() {
        let profile = path.file_stem().and_then(|stem| stem.to_str());
        if !profile.is_some_and(|profile| names.contains_key(profile)) {
            diagnostics.push(Diagnostic::whole_file_warning(
                path.display().to_string(),
                "stale-overlay",
                "there is no profile of this name for it to be added to",
                "remove the file, or name it like the profile that it was made for".to_owned(),
            ));
        }
    }
    diagnostics.sort();
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    set.warnings = diagnostics;
    Ok(set)
}

/// The policy files of a folder, in the order of their names.
pub fn list_dir(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|ending| ending == ENDING) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Loads the profile with this name from a folder.
pub fn load_profile(
    dir: &Path,
    name: &str,
    capabilities: &Capabilities,
) -> Result<Loaded, Diagnostics> {
    let mut folder = Folder::new(dir);
    let Some(path) = folder.find(name) else {
        let (place, help) = folder.missing(name);
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(Diagnostic::whole_file(
            place,
            UNKNOWN_PROFILE,
            format!("no profile \"{name}\" in {}", dir.display()),
            help,
        ));
        return Err(diagnostics);
    };
    load_from(&mut folder, &path, capabilities)
}

/// Loads one policy file; what it includes is looked for beside it.
pub fn load_file(path: &Path, capabilities: &Capabilities) -> Result<Loaded, Diagnostics> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    // An overlay is nothing without its profile.
    if dir.file_name().is_some_and(|name| name == overlay::FOLDER)
        && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
    {
        let policies = match dir.parent() {
            Some(policies) if policies != Path::new("") => policies,
            _ => Path::new("."),
        };
        return load_profile(policies, name, capabilities);
    }
    load_from(&mut Folder::new(dir), path, capabilities)
}

/// Compiles a policy text that includes nothing; `name` is what its messages call it.
pub fn load_text(
    name: &str,
    text: &str,
    capabilities: &Capabilities,
) -> Result<Loaded, Diagnostics> {
    let mut folder = Folder {
        dir: None,
        documents: BTreeMap::new(),
    };
    let mut diagnostics = Diagnostics::default();
    let source = Arc::new(Source::new(name, text));
    let path = PathBuf::from(name);
    folder.parse(&path, &source, &mut diagnostics);
    let loaded = folder.load(&path, capabilities, &mut diagnostics);
    finish(loaded, diagnostics)
}

fn load_from(
    folder: &mut Folder,
    path: &Path,
    capabilities: &Capabilities,
) -> Result<Loaded, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let loaded = folder.load(path, capabilities, &mut diagnostics);
    finish(loaded, diagnostics)
}

fn finish(loaded: Option<Loaded>, mut diagnostics: Diagnostics) -> Result<Loaded, Diagnostics> {
    diagnostics.sort();
    match loaded {
        Some(loaded) if !diagnostics.has_errors() => Ok(Loaded {
            warnings: diagnostics,
            ..loaded
        }),
        _ => Err(diagnostics),
    }
}

/// A folder whose files are read at most once.
struct Folder {
    /// Absent for a text that is in no folder, and can include nothing.
    dir: Option<PathBuf>,
    /// Files that were read; `None` for one that can't be used.
    documents: BTreeMap<PathBuf, Option<Arc<Document>>>,
}

impl Folder {
    fn new(dir: &Path) -> Self {
        Self {
            dir: Some(dir.to_owned()),
            documents: BTreeMap::new(),
        }
    }

    /// The policy files of the folder, in the order of their names.
    fn list(&self) -> std::io::Result<Vec<PathBuf>> {
        self.dir.as_deref().map_or(Ok(Vec::new()), list_dir)
    }

    /// The file of a profile: the one named like it, else the one that gives itself this name.
    fn find(&self, name: &str) -> Option<PathBuf> {
        if !document::is_profile_name(name) {
            return None;
        }
        let path = self.dir.as_ref()?.join(format!("{name}.{ENDING}"));
        if self.documents.contains_key(&path) || path.is_file() {
            return Some(path);
        }
        self.list().ok()?.into_iter().find(|path| {
            let named = |document: &Document| document.name == name;
            match self.documents.get(path) {
                Some(document) => document.as_deref().is_some_and(named),
                // What is wrong with the file is reported if it is the one.
                None => Source::read(path).is_ok_and(|source| {
                    let (document, _) = document::parse(&Arc::new(source), false);
                    document.as_ref().is_some_and(named)
                }),
            }
        })
    }

    /// What to say about a profile that isn't there: where it isn't, and what is.
    fn missing(&self, name: &str) -> (String, Option<String>) {
        let Some(dir) = &self.dir else {
            let help = "write the rules themselves".to_owned();
            return ("a policy that is no file".to_owned(), Some(help));
        };
        let paths = self.list().unwrap_or_default();
        let stems: Vec<&str> = paths
            .iter()
            .filter_map(|path| path.file_stem()?.to_str())
            .collect();
        let help = match document::nearest(name, &stems) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if stems.is_empty() => "the folder holds no profile".to_owned(),
            None => format!("the folder holds {}", stems.join(", ")),
        };
        (dir.display().to_string(), Some(help))
    }

    /// The document of a file; what is wrong with it is reported the first time.
    fn document(&mut self, path: &Path, diagnostics: &mut Diagnostics) -> Option<Arc<Document>> {
        if let Some(document) = self.documents.get(path) {
            return document.clone();
        }
        match Source::read(path) {
            Ok(source) => self.parse(path, &Arc::new(source), diagnostics),
            Err(error) => {
                diagnostics.push(error.into());
                self.documents.insert(path.to_owned(), None);
                None
            }
        }
    }

    fn parse(
        &mut self,
        path: &Path,
        source: &Arc<Source>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Arc<Document>> {
        let (document, found) = document::parse(source, false);
        let document = document.map(Arc::new);
        // The rest of a file with mistakes is still looked at, so that one run shows them all.
        diagnostics.extend(found);
        self.documents.insert(path.to_owned(), document.clone());
        document
    }

    fn load(
        &mut self,
        path: &Path,
        capabilities: &Capabilities,
        diagnostics: &mut Diagnostics,
    ) -> Option<Loaded> {
        let document = self.document(path, diagnostics)?;
        let mut rules = builtin_rules(diagnostics);
        rules.extend(document.rules.iter().cloned());
        let mut chain = vec![document.clone()];
        let mut seen = vec![document.name.clone()];
        let whole = self.include(&document, &mut chain, &mut seen, &mut rules, diagnostics);
        check_ids(&document, &rules, diagnostics);
        // Rules of an included file with mistakes are missing, so what would be said next is not true.
        if !whole {
            return None;
        }
        self.overlay(&document, &mut rules, diagnostics);
        close_name_services(&document, &mut rules, diagnostics);
        // Of rules that are as strict, the first one counts: one that requires more.
        rules.sort_by_key(|rule| !rule.sni);
        let compiled = compile(&document, &rules, capabilities);
        let profile = match compiled {
            Ok((profile, warnings)) => {
                diagnostics.extend(warnings);
                profile
            }
            Err(found) => {
                diagnostics.extend(found);
                return None;
            }
        };
        Some(Loaded {
            profile: Arc::new(profile),
            tests: super::testing::of(&document),
            warnings: Diagnostics::default(),
        })
    }

    /// Adds what the profile's overlay says, where there is one.
    fn overlay(&self, document: &Document, rules: &mut Vec<Rule>, diagnostics: &mut Diagnostics) {
        let Some(dir) = &self.dir else { return };
        let path = overlay::path(dir, &document.name);
        // FAIL-CLOSED: one that is there and can't be read is an error.
        if std::fs::symlink_metadata(&path).is_err() {
            return;
        }
        match Source::read(&path) {
            Ok(source) => {
                let (overlay, found) = document::overlay::parse(&Arc::new(source), &document.name);
                diagnostics.extend(found);
                if let Some(overlay) = overlay {
                    overlay::apply(overlay, rules, diagnostics);
                }
            }
            Err(error) => diagnostics.push(error.into()),
        }
    }

    /// Adds the rules of everything that `document` includes, each profile once. Answers whether all of
    /// it was there.
    fn include(
        &mut self,
        document: &Document,
        chain: &mut Vec<Arc<Document>>,
        seen: &mut Vec<String>,
        rules: &mut Vec<Rule>,
        diagnostics: &mut Diagnostics,
    ) -> bool {
        let mut whole = true;
        for include in &document.include {
            let mut report = |code, message, help: Option<String>| {
                diagnostics.push(Diagnostic::at(
                    &document.source,
                    include.span.clone(),
                    Severity::Error,
                    code,
                    message,
                    help,
                ));
            };
            let Some(path) = self.find(&include.name) else {
                let (place, help) = self.missing(&include.name);
                report(
                    "unknown-include",
                    format!("included profile \"{}\" is not in {place}", include.name),
                    help,
                );
                whole = false;
                continue;
            };
            let in_chain = |above: &Arc<Document>| above.name == include.name;
            if chain.iter().any(in_chain) {
                let names: Vec<&str> = chain
                    .iter()
                    .skip_while(|above| !in_chain(above))
                    .map(|above| above.name.as_str())
                    .chain([include.name.as_str()])
                    .collect();
                report(
                    "include-cycle",
                    format!(
                        "profile \"{}\" includes itself: {}",
                        include.name,
                        names.join(" -> ")
                    ),
                    Some("take one of the includes out".to_owned()),
                );
                whole = false;
                continue;
            }
            if seen.contains(&include.name) {
                continue;
            }
            seen.push(include.name.clone());
            let Some(included) = self.document(&path, diagnostics) else {
                whole = false;
                continue;
            };
            rules.extend(included.rules.iter().cloned());
            chain.push(included.clone());
            whole &= self.include(&included, chain, seen, rules, diagnostics);
            chain.pop();
        }
        whole
    }
}

fn builtin_rules(diagnostics: &mut Diagnostics) -> Vec<Rule> {
    let source = Arc::new(Source::new(BUILTIN_FILE, BUILTIN));
    let (document, found) = document::parse(&source, true);
    diagnostics.extend(found);
    document.map_or_else(Vec::new, |document| document.rules)
}

/// Denies the sockets on which others look names up, in a profile that names hosts and would open them by nothing but its
/// `[default]`: what is looked up there nobody sees.
fn close_name_services(document: &Document, rules: &mut Vec<Rule>, diagnostics: &mut Diagnostics) {
    let names = |rule: &Rule| {
        rule.patterns
            .iter()
            .any(|pattern| pattern.subject == Subject::Name)
    };
    let (default, _) = document.defaults.verdicts[Subject::Unix as usize][0];
    if default == List::Deny || !rules.iter().any(names) {
        return;
    }
    let source = Arc::new(Source::new(NAME_SERVICES_FILE, NAME_SERVICES));
    let (services, found) = document::parse(&source, true);
    diagnostics.extend(found);
    for mut service in services.map_or_else(Vec::new, |document| document.rules) {
        service.patterns.retain(|pattern| {
            let meets = |other: &RulePattern| {
                other.subject == Subject::Unix
                    && pattern.pattern.alternatives.iter().any(|tokens| {
                        let others = &other.pattern.alternatives;
                        others.iter().any(|other| overlap(tokens, other))
                    })
            };
            !rules.iter().any(|rule| rule.patterns.iter().any(meets))
        });
        if !service.patterns.is_empty() {
            rules.push(service);
        }
    }
}

/// Reports ids that two rules have.
fn check_ids(document: &Document, rules: &[Rule], diagnostics: &mut Diagnostics) {
    let mut ids: BTreeMap<&str, &Rule> = BTreeMap::new();
    for rule in rules {
        let Some(first) = ids.insert(&rule.id, rule) else {
            continue;
        };
        let (at, other) = if Arc::ptr_eq(&rule.source, &document.source) {
            (rule, first)
        } else {
            // A clash with an included rule is this profile's to solve.
            (first, rule)
        };
        diagnostics.push(Diagnostic::at(
            &at.source,
            at.id_span.clone(),
            Severity::Error,
            "duplicate-id",
            format!(
                "the id \"{}\" is also that of the rule at {}:{}",
                at.id, other.source.name, other.line
            ),
            "ids appear in events and must be unique; write another".to_owned(),
        ));
    }
}
