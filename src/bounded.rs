//! Bounded reads of files and stdin that an operator names: they may have no end.

use std::io::{self, Read};

/// Reads to the end. Fails with `FileTooLarge` above `most` bytes.
pub(crate) fn read(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let sentence = format!("it has more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, sentence));
    }
    Ok(bytes)
}

/// Reads UTF-8 text to the end. Fails with `FileTooLarge` above `most` bytes, `InvalidData` if it is not UTF-8.
pub(crate) fn read_text(from: impl Read, most: u64) -> io::Result<String> {
    let text = String::from_utf8(read(from, most)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
