//! How a command that failed says so: `error:`, its causes, `hint:`, or one JSON object on stderr.

use std::error::Error;

use super::exit::CommandError;

/// The last words of a command that failed, with a final newline.
pub fn render(error: &CommandError, json: bool, colored: bool) -> String {
    if json { as_json(error) } else { as_text(error, colored) }
}

fn as_text(error: &CommandError, colored: bool) -> String {
    let label =
        |text: &str, style: &str| if colored { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() };
    let mut text = format!("{} {}\n", label("error:", "1;31"), error.what);
    for cause in causes(error) {
        text.push_str(&format!("  caused by: {cause}\n"));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("{} {hint}\n", label("hint:", "1;36")));
    }
    text
}

fn as_json(error: &CommandError) -> String {
    let message = std::iter::once(error.what.clone()).chain(causes(error)).collect::<Vec<_>>().join(": ");
    let object = serde_json::json!({
        "message_type": "exit_error",
        "code": error.exit.code(),
        "message": message,
        "hint": error.hint,
    });
    format!("{object}\n")
}

/// The chain below an error, each link once: many errors already contain the words of their source.
fn causes(error: &CommandError) -> Vec<String> {
    let mut said = error.what.clone();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !said.contains(&words) {
            causes.push(words.clone());
        }
        said = words;
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::exit::ExitCode;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open /d/index: {0}")]
    struct Outer(#[source] std::io::Error);

    fn failed() -> CommandError {
        let inner = Outer(std::io::Error::other("no space"));
        CommandError::new(ExitCode::DiskFull, "cannot start").caused_by(inner).hint("kura reclaim-staging --yes")
    }

    #[test]
    fn each_cause_is_said_once_and_the_hint_stands_alone() {
        assert_eq!(
            render(&failed(), false, false),
            "error: cannot start\n  caused by: cannot open /d/index: no space\nhint: kura reclaim-staging --yes\n"
        );
    }

    #[test]
    fn under_json_the_error_is_one_object() {
        assert_eq!(
            render(&failed(), true, true),
            "{\"message_type\":\"exit_error\",\"code\":10,\"message\":\"cannot start: cannot open /d/index: no space\",\
             \"hint\":\"kura reclaim-staging --yes\"}\n"
        );
    }

    #[test]
    fn colour_is_only_on_the_labels() {
        let text = render(&CommandError::new(ExitCode::Usage, "no"), false, true);
        assert_eq!(text, "\u{1b}[1;31merror:\u{1b}[0m no\n");
    }
}
