//! Hybrid torrents (BEP 52): whether the v2 half describes the same files as the v1 half, which is the one we use.

use bencode::Value;

use crate::TorrentError;

/// A file of either half, by its raw path.
#[derive(PartialEq, Eq)]
struct RawFile<'a> {
    path: Vec<&'a [u8]>,
    length: u64,
}

/// Checks a hybrid. `name`, `files` and `length` are those of the v1 half.
pub(crate) fn check(
    tree: Value<'_>,
    name: Option<Value<'_>>,
    files: Option<Value<'_>>,
    length: Option<Value<'_>>,
    piece_length: u32,
) -> Result<(), TorrentError> {
    if !piece_length.is_power_of_two() || piece_length < crate::BLOCK_LENGTH {
        return Err(TorrentError::HybridPieceLength(piece_length));
    }
    let mut v2 = Vec::new();
    walk(tree, &mut Vec::new(), &mut v2)?;

    let v1 = match files {
        Some(files) => v1_files(files, piece_length).ok_or(TorrentError::HybridMismatch)?,
        None => {
            let path = vec![name.and_then(|v| v.as_bytes()).unwrap_or_default()];
            vec![RawFile { path, length: length.and_then(|v| v.as_unsigned()).unwrap_or(0) }]
        }
    };
    if v1 == v2 { Ok(()) } else { Err(TorrentError::HybridMismatch) }
}

/// The v1 half's files but for pad files; `None` where one does not begin with a piece.
fn v1_files(files: Value<'_>, piece_length: u32) -> Option<Vec<RawFile<'_>>> {
    let mut listed = Vec::new();
    let mut offset = 0u64;
    for file in files.as_list()? {
        let file = file.as_dict()?;
        let length = file.get(b"length").map_or(Some(0), |v| v.as_unsigned())?;
        let is_pad = file.get(b"attr").and_then(|v| v.as_bytes()).is_some_and(|attr| attr.contains(&b'p'));
        if !is_pad {
            if length > 0 && !offset.is_multiple_of(u64::from(piece_length)) {
                return None;
            }
            let path = file.get(b"path")?.as_list()?.map(|part| part.as_bytes()).collect::<Option<_>>()?;
            listed.push(RawFile { path, length });
        }
        offset = offset.checked_add(length)?;
    }
    Some(listed)
}

/// The v2 half's files. The decoder has bounded how deep a tree can be.
fn walk<'a>(
    tree: Value<'a>,
    path: &mut Vec<&'a [u8]>,
    files: &mut Vec<RawFile<'a>>,
) -> Result<(), TorrentError> {
    let tree = tree.as_dict().filter(|tree| !tree.is_empty()).ok_or(TorrentError::BadFileTree)?;
    for (name, node) in tree {
        let node_dict = node.as_dict().ok_or(TorrentError::BadFileTree)?;
        if name.is_empty() {
            return Err(TorrentError::BadFileTree);
        }
        path.push(name);
        // A file is a folder whose one entry has no name.
        match node_dict.iter().next() {
            Some((b"", leaf)) if node_dict.iter().nth(1).is_none() => {
                let leaf = leaf.as_dict().ok_or(TorrentError::BadFileTree)?;
                let length = leaf.get(b"length").and_then(|v| v.as_unsigned());
                let length = length.ok_or(TorrentError::BadFileTree)?;
                let root = leaf.get(b"pieces root").and_then(|v| v.as_bytes());
                if length > 0 && root.is_none_or(|root| root.len() != 32 || root.iter().all(|&b| b == 0)) {
                    return Err(TorrentError::MissingPiecesRoot);
                }
                files.push(RawFile { path: path.clone(), length });
            }
            _ => walk(node, path, files)?,
        }
        path.pop();
    }
    Ok(())
}
