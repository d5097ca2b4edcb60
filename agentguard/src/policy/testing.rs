//! Runs the `[[test]]` tables of a policy file: questions with the verdicts that their author expects.

use std::fmt;

use serde::Serialize;

use super::{
    explain::{Explanation, explain},
    model::{Ask, Document, Expect},
    profile::CompiledProfile,
};

/// A `[[test]]` table.
#[derive(Clone, Debug)]
pub struct ProfileTest {
    pub ask: Ask,
    pub expect: Expect,
    /// Id of the rule that must decide, when the author cares.
    pub rule: Option<String>,
    pub file: String,
    pub line: u32,
}

/// What came of a test.
#[derive(Clone, Debug, Serialize)]
pub struct TestResult {
    pub passed: bool,
    pub file: String,
    pub line: u32,
    pub expected: Expect,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_rule: Option<String>,
    pub found: Explanation,
}

impl fmt::Display for TestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed { "ok" } else { "FAILED" };
        write!(
            f,
            "{}:{}: {word}: {}",
            self.file,
            self.line,
            self.found.question()
        )?;
        write!(f, ": {} by {}", self.found.verdict.name(), self.found.rule)?;
        if self.passed {
            return Ok(());
        }
        match self.found.line {
            Some(line) => write!(f, " ({}:{line})", self.found.file)?,
            None => write!(f, " ({})", self.found.file)?,
        }
        write!(f, ", expected {}", self.expected.name())?;
        if let Some(rule) = &self.expected_rule {
            write!(f, " by {rule}")?;
        }
        Ok(())
    }
}

/// The tests of a document.
pub(super) fn of(document: &Document) -> Vec<ProfileTest> {
    document
        .tests
        .iter()
        .map(|test| ProfileTest {
            ask: test.ask.clone(),
            expect: test.expect,
            rule: test.rule.clone(),
            file: document.source.name.clone(),
            line: test.line,
        })
        .collect()
}

/// Runs a test.
pub fn run(profile: &CompiledProfile, test: &ProfileTest) -> TestResult {
    let found = explain(profile, &test.ask);
    TestResult {
        passed: found.verdict == test.expect
            && test.rule.as_ref().is_none_or(|rule| *rule == found.rule),
        file: test.file.clone(),
        line: test.line,
        expected: test.expect,
        expected_rule: test.rule.clone(),
        found,
    }
}
