package kv

import "hash/crc64"

// What internal/rdb needs to write and read whole files in RDB format.

// AppendRDBText appends a string in RDB format.
func AppendRDBText(b, s []byte) []byte { return appendRDBText(b, s) }

// AppendRDBLength appends a length in RDB format.
func AppendRDBLength(b []byte, n uint64) []byte { return appendRDBLength(b, n) }

// DecodeRDBText decodes b, which is one string in RDB format and nothing behind it. The string may be part of b.
func DecodeRDBText(b []byte) (text []byte, ok bool) {
	r := rdbReader{rest: b}
	text = r.text()
	return text, r.err == nil && len(r.rest) == 0
}

// AppendDumpFooter makes b, type and value in RDB format, a payload of RESTORE.
func AppendDumpFooter(b []byte) []byte { return appendFooter(b) }

// CutDumpFooter returns type and value of a payload of DUMP; ok is false if it is too short to be one.
func CutDumpFooter(payload []byte) (value []byte, ok bool) {
	if len(payload) <= rdbFooter {
		return nil, false
	}
	return payload[:len(payload)-rdbFooter], true
}

// RDBChecksum is the running checksum of a file in RDB format. The zero value is that of no bytes.
type RDBChecksum struct{ sum uint64 }

// Add adds bytes.
func (c *RDBChecksum) Add(b []byte) { c.sum = ^crc64.Update(^c.sum, jones, b) }

// Sum returns the checksum of what was added.
func (c *RDBChecksum) Sum() uint64 { return c.sum }
