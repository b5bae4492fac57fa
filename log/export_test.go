package log

import (
	"encoding/binary"
	"hash/crc32"
)

// WithVersion returns a log file's bytes as a later version of this program would mark them.
func WithVersion(file []byte, version uint32) []byte {
	file = append([]byte(nil), file...)
	p := file[len(file)-BlockSize:]
	binary.LittleEndian.PutUint32(p[8:], version)
	binary.LittleEndian.PutUint32(p[12:], blockSum(p))
	return file
}

// StateWithVersion does the same to the hard state.
func StateWithVersion(file []byte, version uint32) []byte {
	file = append([]byte(nil), file...)
	for _, p := range [][]byte{file[:BlockSize], file[BlockSize:]} {
		binary.LittleEndian.PutUint32(p[8:], version)
		binary.LittleEndian.PutUint32(p[12:], blockSum(p))
	}
	return file
}

// Resealed returns a log file's bytes with all checksums of its metadata made good, to get a fuzzer behind them.
func Resealed(file []byte) []byte {
	if len(file) < 2*BlockSize {
		return file
	}
	file = append([]byte(nil), file...)
	p := file[len(file)-BlockSize:]
	copy(p, headerMagic[:])
	binary.LittleEndian.PutUint32(p[8:], formatVersion)
	dataSize := int64(binary.LittleEndian.Uint64(p[24:]))
	if checkDataSize(dataSize) == nil {
		if y := layoutOf(dataSize); int64(len(file)) >= y.fileSize(0) {
			for i := range uint64(2) {
				s := file[y.slotAt(i):][:slotSize]
				binary.LittleEndian.PutUint32(s, crc32.Checksum(s[4:], castagnoli))
			}
			binary.LittleEndian.PutUint32(p[40:], crc32.Checksum(file[y.historyAt:len(file)-BlockSize], castagnoli))
			seal := file[y.sealAt:][:sealHead+4*y.pages]
			if !allZero(seal) {
				binary.LittleEndian.PutUint32(seal, crc32.Checksum(seal[4:], castagnoli))
			}
		}
	}
	binary.LittleEndian.PutUint32(p[12:], blockSum(p))
	return file
}
