package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf8"

	"lockstep/smr"
)

// AppendMessage appends the encoding of message, a pointer to one of the structs of smr/message.go. It panics for
// anything else and for contents that no peer would accept (a name, path or batch beyond its limit): these are the
// sender's own, checked when they were configured. Only the text of a Reject is shortened.
func AppendMessage(b []byte, message any) []byte {
	start := len(b)
	b = append(b, make([]byte, HeaderSize)...)
	b[start+PrefixSize+1] = flagsOf(message)
	var k kind
	switch m := message.(type) {
	case *smr.Reject:
		k = kindReject
		b = append(b, byte(m.Code))
		b = append64(b, m.Epoch)
		b = appendString(b, shorten(m.Reason), maxReason)
	case *smr.SlaveHello, *smr.MasterHello, *smr.SlaveStart, *smr.Append, *smr.Heartbeat, *smr.Ack:
		b, k = appendSlaveMessage(b, message)
	case *smr.ClientHello, *smr.ClientWelcome, *smr.Propose, *smr.ReadIndex, *smr.ReadReady, *smr.CountCopies, *smr.CopiesCounted:
		b, k = appendClientMessage(b, message)
	case *smr.LocalHello, *smr.LocalWelcome, *smr.Status, *smr.Progress, *smr.ImageSources, *smr.LocalBase, *smr.Transfer:
		b, k = appendLocalMessage(b, message)
	default:
		panic(fmt.Sprintf("%T is no message", message))
	}
	frame := b[start:]
	frame[PrefixSize] = byte(k)
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-PrefixSize))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(frame[PrefixSize:], castagnoli))
	return b
}

// flagsOf returns the flags of a message: a feature level less one, where there is one.
func flagsOf(message any) byte {
	level := 0
	switch m := message.(type) {
	case *smr.SlaveHello:
		level = m.Level
	case *smr.MasterHello:
		level = m.Level
	case *smr.ClientHello:
		level = m.Level
	case *smr.ClientWelcome:
		level = m.Level
	case *smr.LocalHello:
		level = m.Level
	case *smr.LocalWelcome:
		level = m.Level
	case *smr.Status:
		level = m.Level
	}
	if level > smr.MaxLevel {
		panic(fmt.Sprintf("feature level %d in a message: %d are possible", level, smr.MaxLevel))
	}
	return byte(max(level, 1) - 1)
}

func appendSlaveMessage(b []byte, message any) ([]byte, kind) {
	switch m := message.(type) {
	case *smr.SlaveHello:
		b = appendHandshake(b, m.Handshake)
		b = append64(b, m.Epoch)
		return append64(b, m.Incarnation), kindSlaveHello
	case *smr.MasterHello:
		if len(m.History) > smr.MaxHistory {
			panic(fmt.Sprintf("history of %d epochs: %d are possible", len(m.History), smr.MaxHistory))
		}
		b = appendHandshake(b, m.Handshake)
		b = append64(b, m.Epoch)
		b = append64(b, m.Start)
		b = append64(b, m.End)
		b = appendConfig(b, m.Config)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(m.History)))
		for _, span := range m.History {
			b = append64(b, span.Epoch)
			b = append64(b, span.From)
		}
		return b, kindMasterHello
	case *smr.SlaveStart:
		b = append64(b, m.Epoch)
		return append64(b, m.From), kindSlaveStart
	case *smr.Append:
		checkBatch(m.Frames)
		b = append64(b, m.Epoch)
		b = append64(b, m.Commit)
		b = append64(b, m.From)
		return append(b, m.Frames...), kindAppend
	case *smr.Heartbeat:
		b = append64(b, m.Epoch)
		b = append64(b, m.Commit)
		b = append64(b, m.Round)
		b = appendBool(b, m.Writable)
		b = append64(b, m.Lease)
		return appendBool(b, m.LeaseOver), kindHeartbeat
	case *smr.Ack:
		b = append64(b, m.Epoch)
		b = append64(b, m.Durable)
		b = append64(b, m.Round)
		return append64(b, m.Leased), kindAck
	}
	panic("unreachable")
}

func appendClientMessage(b []byte, message any) ([]byte, kind) {
	switch m := message.(type) {
	case *smr.ClientHello:
		b = appendHandshake(b, m.Handshake)
		return append64(b, m.Session), kindClientHello
	case *smr.ClientWelcome:
		b = appendHandshake(b, m.Handshake)
		return append64(b, m.Epoch), kindClientWelcome
	case *smr.Propose:
		checkBatch(m.Requests)
		b = binary.LittleEndian.AppendUint32(b, uint32(m.Count))
		return append(b, m.Requests...), kindPropose
	case *smr.ReadIndex:
		return append64(b, m.ID), kindReadIndex
	case *smr.ReadReady:
		b = append64(b, m.ID)
		return append64(b, m.LSN), kindReadReady
	case *smr.CountCopies:
		b = append64(b, m.ID)
		return append64(b, m.LSN), kindCountCopies
	case *smr.CopiesCounted:
		b = append64(b, m.ID)
		return binary.LittleEndian.AppendUint32(b, uint32(m.Copies)), kindCopiesCounted
	}
	panic("unreachable")
}

func appendLocalMessage(b []byte, message any) ([]byte, kind) {
	switch m := message.(type) {
	case *smr.LocalHello:
		b = appendHandshake(b, m.Handshake)
		b = append64(b, m.Session)
		b = binary.LittleEndian.AppendUint32(b, uint32(m.Pid))
		b = appendString(b, m.KVAddr, maxName)
		b = appendString(b, m.AdminAddr, maxName)
		b = append64(b, m.Applied)
		return append64(b, m.Checkpoint), kindLocalHello
	case *smr.LocalWelcome:
		b = appendHandshake(b, m.Handshake)
		b = append64(b, m.Incarnation)
		b = appendString(b, m.LogDir, maxPath)
		return appendString(b, m.Page, maxPath), kindLocalWelcome
	case *smr.Status:
		b = append(b, byte(m.Role))
		b = append64(b, m.Epoch)
		b = appendString(b, string(m.Master), maxName)
		b = appendString(b, m.MasterAddr, maxName)
		b = append64(b, m.Start)
		b = append64(b, m.Safe)
		b = append64(b, m.Commit)
		b = appendBool(b, m.Writable)
		return append64(b, m.NeedImage), kindStatus
	case *smr.Progress:
		b = append64(b, m.Applied)
		return append64(b, m.Checkpoint), kindProgress
	case *smr.ImageSources:
		if len(m.Sources) > smr.MaxImageSources {
			panic(fmt.Sprintf("%d sources of images: %d are possible", len(m.Sources), smr.MaxImageSources))
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(len(m.Sources)))
		for _, s := range m.Sources {
			b = appendString(b, string(s.Node), maxName)
			b = appendString(b, s.Addr, maxName)
		}
		return b, kindImageSources
	case *smr.LocalBase:
		if len(m.Base) > maxBase {
			panic(fmt.Sprintf("base of %d bytes in a message: %d are possible", len(m.Base), maxBase))
		}
		return append(b, m.Base...), kindLocalBase
	case *smr.Transfer:
		b = append64(b, m.Done)
		b = append64(b, m.Total)
		b = append64(b, m.PerSecond)
		return appendString(b, m.From, maxName), kindTransfer
	}
	panic("unreachable")
}

func appendHandshake(b []byte, h smr.Handshake) []byte {
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = appendString(b, h.Cluster, maxName)
	b = appendString(b, h.Group, maxName)
	return appendString(b, string(h.Node), maxName)
}

// appendConfig writes 2 bytes length and the configuration; 0 stands for none.
func appendConfig(b []byte, c smr.Config) []byte {
	at := len(b)
	b = append(b, 0, 0)
	if c.Epoch != 0 {
		b = smr.AppendConfig(b, c)
		binary.LittleEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	}
	return b
}

func append64[T ~uint64](b []byte, v T) []byte {
	return binary.LittleEndian.AppendUint64(b, uint64(v))
}

func appendString(b []byte, s string, limit int) []byte {
	if len(s) > limit {
		panic(fmt.Sprintf("string of %d bytes in a message: %d are possible", len(s), limit))
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func checkBatch(batch []byte) {
	if len(batch) > MaxBatch {
		panic(fmt.Sprintf("batch of %d bytes in a message: %d are possible", len(batch), MaxBatch))
	}
}

// shorten cuts s to maxReason bytes, at the beginning of a character.
func shorten(s string) string {
	if len(s) <= maxReason {
		return s
	}
	end := maxReason
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
