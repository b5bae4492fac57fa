package kv

import (
	"bytes"

	"lockstep/smr"
)

// crcTable is that of CRC16 XMODEM: polynomial 0x1021, most significant bit first.
var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()

func crc16(b []byte) uint16 {
	var crc uint16
	for _, c := range b {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^c]
	}
	return crc
}

// Slot returns the hash slot of a key as Redis Cluster defines it: only what stands between the first '{' and the
// next '}' counts, if that is not empty.
func Slot(key []byte) uint16 {
	if from := bytes.IndexByte(key, '{'); from >= 0 {
		if length := bytes.IndexByte(key[from+1:], '}'); length > 0 {
			key = key[from+1 : from+1+length]
		}
	}
	return crc16(key) % smr.Slots
}
