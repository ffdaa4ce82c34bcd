//! What a file of a repository is, by its path.

use hash::Digest;

/// The longest path that is looked at, in bytes.
const PATH_LIMIT: usize = 1024;

/// What a path below a repository means for whoever keeps copies of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// A commit, dirtree or dirmeta object: its name is the SHA-256 of its bytes.
    Object(Digest),
    /// A content object, `.filez`, and its name: the checksum of what is packed into it, as
    /// [`ContentObject`](crate::ContentObject) says it.
    Content(Digest),
    /// A part of a static delta.
    Part {
        /// The path of the delta's superblock.
        superblock: String,
        /// Which part, from 0 on.
        number: usize,
    },
    /// What may change any time, and OSTree cannot do without: `config`.
    Config,
    /// What may change any time, or may come: `summary`, `refs/…`, a delta's `superblock`, signatures. OSTree goes
    /// on in another way where it is not there.
    Optional,
    /// Something else.
    Other,
}

/// A path that no repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path is too long, or has empty parts, `.`, `..` or characters that no file of a repository has")]
pub struct PathError;

impl File {
    /// What the file at `path` is; the path is relative to the repository, without a slash at its start.
    ///
    /// # Errors
    /// A path that cannot lie below the repository, or is written in a way of which that cannot be said.
    pub fn of(path: &str) -> Result<Self, PathError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-+=@~:,".contains(&c);
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        if path.len() > PATH_LIMIT || !path.split('/').all(part) {
            return Err(PathError);
        }
        let parts: Vec<&str> = path.split('/').collect();
        Ok(match parts.as_slice() {
            ["config"] => Self::Config,
            ["summary" | "summary.sig"] | ["refs" | "summaries" | "delta-indexes", _, ..] => Self::Optional,
            ["objects", first, rest] => Self::object(first, rest),
            ["deltas", .., "superblock"] if parts.len() > 2 => Self::Optional,
            ["deltas", folder @ .., number] if !folder.is_empty() => match part_number(number) {
                Some(number) => {
                    Self::Part { superblock: format!("deltas/{}/superblock", folder.join("/")), number }
                }
                None => Self::Other,
            },
            _ => Self::Other,
        })
    }

    fn object(first: &str, rest: &str) -> Self {
        let Some((rest, kind)) = rest.split_once('.') else { return Self::Other };
        let Ok(name) = Digest::from_hex(&format!("{first}{rest}")) else { return Self::Other };
        match kind {
            _ if first.len() != 2 => Self::Other,
            "commit" | "dirtree" | "dirmeta" => Self::Object(name),
            "filez" => Self::Content(name),
            // Signatures of a commit, which are added behind it.
            "commitmeta" => Self::Optional,
            _ => Self::Other,
        }
    }
}

/// As OSTree writes it: digits without a zero before them.
fn part_number(text: &str) -> Option<usize> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "3456789012345678901234567890123456789012345678901234567890abcd";

    #[test]
    fn files_are_known_by_their_paths() {
        let object = |kind: &str| File::of(&format!("objects/12/{HEX}.{kind}"));
        let digest = Digest::from_hex(&format!("12{HEX}")).expect("hex");
        for kind in ["commit", "dirtree", "dirmeta"] {
            assert_eq!(object(kind), Ok(File::Object(digest)));
        }
        assert_eq!(object("filez"), Ok(File::Content(digest)));
        assert_eq!(object("commitmeta"), Ok(File::Optional));
        assert_eq!(object("file"), Ok(File::Other));
        assert_eq!(File::of(&format!("objects/1/2{HEX}.commit")), Ok(File::Other));
        assert_eq!(File::of("config"), Ok(File::Config));
        for path in
            ["summary", "summary.sig", "refs/heads/a/b", "delta-indexes/ab/c.index", "deltas/ab/c/superblock"]
        {
            assert_eq!(File::of(path), Ok(File::Optional), "{path}");
        }
        let part = File::Part { superblock: "deltas/ab/c_d-e+f/superblock".into(), number: 12 };
        assert_eq!(File::of("deltas/ab/c_d-e+f/12"), Ok(part));
        for path in ["deltas/1", "deltas/ab/c/01", "deltas/ab/c/+1", "deltas/superblock", "extensions/x", "x"]
        {
            assert_eq!(File::of(path), Ok(File::Other), "{path}");
        }
    }

    #[test]
    fn a_path_that_leads_out_or_hides_where_it_leads_is_refused() {
        for path in
            ["", "/summary", "refs/../../x", "refs//x", "./config", "refs/%2e%2e/x", "a\\b", "a?b", "a\0b"]
        {
            assert_eq!(File::of(path), Err(PathError), "{path}");
        }
        assert_eq!(File::of(&"a".repeat(PATH_LIMIT + 1)), Err(PathError));
    }

    proptest! {
        #[test]
        fn any_path_is_refused_or_stays_below(path in "\\PC{0,60}|(objects|deltas|refs)/[a-z0-9./%]{0,70}") {
            if let Ok(file) = File::of(&path) {
                prop_assert!(!path.split('/').any(|part| part.is_empty() || part == ".."));
                if let File::Part { superblock, .. } = file {
                    prop_assert_eq!(File::of(&superblock), Ok(File::Optional));
                }
            }
        }
    }
}
