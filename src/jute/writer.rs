/// Appends jute fields to a byte buffer. Implemented for `Vec<u8>`; it never fails.
pub trait Write {
    /// Raw bytes, no length.
    fn put_raw(&mut self, bytes: &[u8]);

    /// jute `byte`.
    fn put_byte(&mut self, value: u8) {
        self.put_raw(&[value]);
    }

    /// jute `boolean`.
    fn put_bool(&mut self, value: bool) {
        self.put_byte(value.into());
    }

    /// jute `int`.
    fn put_int(&mut self, value: i32) {
        self.put_raw(&value.to_be_bytes());
    }

    /// jute `long`.
    fn put_long(&mut self, value: i64) {
        self.put_raw(&value.to_be_bytes());
    }

    /// jute `buffer`; `None` is written as null (length -1).
    fn put_buffer(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => {
                self.put_int(bytes.len() as i32);
                self.put_raw(bytes);
            }
            None => self.put_int(-1),
        }
    }

    /// jute `ustring`. Characters beyond U+FFFF are written as their two surrogates, three bytes each: Java's jute encodes
    /// UTF-16 units one by one.
    fn put_string(&mut self, value: &str) {
        // Four bytes of UTF-8 begin with 0xF0 or more, and nothing else does.
        if value.bytes().all(|byte| byte < 0xf0) {
            return self.put_buffer(Some(value.as_bytes()));
        }
        let mut bytes = Vec::with_capacity(value.len() * 3 / 2);
        for unit in value.encode_utf16() {
            match unit {
                0..0x80 => bytes.push(unit as u8),
                0x80..0x800 => bytes.extend([0xc0 | (unit >> 6) as u8, 0x80 | (unit & 0x3f) as u8]),
                _ => bytes.extend([
                    0xe0 | (unit >> 12) as u8,
                    0x80 | (unit >> 6 & 0x3f) as u8,
                    0x80 | (unit & 0x3f) as u8,
                ]),
            }
        }
        self.put_buffer(Some(&bytes));
    }

    /// jute `vector` that is not null.
    fn put_vector<T>(&mut self, items: &[T], mut element: impl FnMut(&mut Self, &T))
    where
        Self: Sized,
    {
        self.put_int(items.len() as i32);
        for item in items {
            element(self, item);
        }
    }
}

impl Write for Vec<u8> {
    fn put_raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
