//! All records of the lab in a file, to be looked at again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
    time::{MissedTickBehavior, interval},
};

use crate::lasting::{
    events::{self, Records},
    state::Lab,
};

/// The most that is recorded, in bytes.
const MOST: u64 = 256 << 20;
/// How often what was recorded goes to the file.
const FLUSH: Duration = Duration::from_secs(1);

/// The file.
pub(crate) fn path(lab: &Lab) -> PathBuf {
    lab.work.join("recording.ndjson")
}

/// Records until the lab ends, or the file is full.
pub(crate) fn begin(lab: &Arc<Lab>) {
    // Nobody follows yet, so there is a place.
    let Ok(records) = events::feed(lab, None) else { return };
    let recorded = lab.clone();
    lab.tasks.spawn(async move {
        match record(path(&recorded), records, MOST).await {
            Ok(true) => recorded.problem(format!("the recording has {} MiB and stops here", MOST >> 20)),
            Ok(false) => {}
            Err(error) => recorded.problem(format!("the recording stops: {error}")),
        }
    });
}

/// Whether it has stopped because the file is full.
async fn record(path: PathBuf, mut records: Records, most: u64) -> std::io::Result<bool> {
    let mut file = BufWriter::with_capacity(256 << 10, File::create(path).await?);
    let (mut length, mut flush) = (0, interval(FLUSH));
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            record = records.recv() => {
                let Some(record) = record else { break };
                length += record.len() as u64 + 1;
                if length > most {
                    file.flush().await?;
                    return Ok(true);
                }
                file.write_all(&record).await?;
                file.write_all(b"\n").await?;
            }
            _ = flush.tick() => file.flush().await?,
        }
    }
    file.flush().await?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_recording_has_whole_records_and_an_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("recording");
        let (outlet, records) = events::outlet();
        for text in ["{}", "{\"a\":1}", "{\"b\":2}"] {
            assert!(outlet.send(text.into()).await.is_ok());
        }
        assert!(record(path.clone(), records, 12).await.expect("records"));
        assert_eq!(std::fs::read_to_string(path).expect("there"), "{}\n{\"a\":1}\n");
    }
}
