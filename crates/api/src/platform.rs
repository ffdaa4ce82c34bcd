//! For which machines an image is meant (OCI image spec, "Image Index", `platform`).

use std::{fmt, str::FromStr};

/// Which of an image's platforms are wanted: `os/architecture[/variant]`, or `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// Every one.
    All,
    /// This one.
    One(Platform),
}

/// A platform, in the spec's words, which are Go's: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The architecture.
    pub architecture: String,
    /// Which kind of it.
    pub variant: Option<String>,
}

/// Not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no platform: write os/architecture[/variant], such as linux/amd64 or linux/arm/v7, or `all`"
)]
pub struct PlatformError(String);

impl Platform {
    /// This machine's.
    pub fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether an image for this platform is one for `wanted`, which fits every variant unless it names one.
    pub fn fits(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none() || self.kind() == wanted.kind())
    }

    /// The variant; the usual one of an architecture need not be written.
    fn kind(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", None) => Some("v8"),
            ("arm", None) => Some("v7"),
            (_, variant) => variant,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_word = |part: &&str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !part.is_empty() && part.len() <= 32 && part.chars().all(known)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(*variant)),
            _ => return Err(PlatformError(text.chars().take(100).collect())),
        };
        if !parts.iter().all(is_word) {
            return Err(PlatformError(text.chars().take(100).collect()));
        }
        let variant = variant.map(str::to_owned);
        Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platforms {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(platform) => platform.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in
            ["", "foo", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux amd64", "linux/ä", "All"]
        {
            let error = text.parse::<Platforms>().expect_err(text).to_string();
            assert!(error.contains("linux/amd64"), "{error}");
        }
        assert_eq!("all".parse(), Ok(Platforms::All));
    }

    #[test]
    fn a_variant_is_compared_when_it_is_asked_for() {
        assert!(platform("linux/arm/v6").fits(&platform("linux/arm")));
        assert!(!platform("linux/arm/v6").fits(&platform("linux/arm/v7")));
        assert!(platform("linux/arm64").fits(&platform("linux/arm64/v8")), "v8 need not be said");
        assert!(!platform("linux/amd64").fits(&platform("linux/arm64")));
        assert!(!platform("windows/amd64").fits(&platform("linux/amd64")));
        assert!(platform(&Platform::own().to_string()).fits(&Platform::own()));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "\\PC{0,40}|[a-z]{1,8}(/[a-z0-9]{0,8}){0,3}") {
            if let Ok(platforms) = text.parse::<Platforms>() {
                prop_assert_eq!(platforms.to_string(), text);
            }
        }
    }
}
