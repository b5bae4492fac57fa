package view

import "unsafe"

// Bytes returns the bytes of s. They must never be changed; they may be kept.
func Bytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
