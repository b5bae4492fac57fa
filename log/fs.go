package log

import "io"

// BlockSize is the unit of WriteBlocks and WriteZeros, in bytes, and that in which metadata is laid out.
const BlockSize = 4 << 10

// Label names the purpose of a file-system call, so that a test can fail, delay or cut at exactly that one
// and an error can say what was being done.
type Label string

// The labels of all calls of this package.
const (
	LabelMakeDir       Label = "make log directory"
	LabelLock          Label = "lock log directory"
	LabelList          Label = "list log directory"
	LabelSyncDir       Label = "sync log directory"
	LabelOpen          Label = "open log file"
	LabelReadMeta      Label = "read log metadata"
	LabelDropCache     Label = "drop cached pages"
	LabelSyncFound     Label = "sync what recovery found"
	LabelVerify        Label = "verify sealed log file"
	LabelScan          Label = "scan last log file"
	LabelAppend        Label = "append frames"
	LabelWriteBack     Label = "write frames back"
	LabelRelease       Label = "release the file before from memory"
	LabelSync          Label = "sync frames"
	LabelMark          Label = "write durable mark"
	LabelSyncMark      Label = "sync durable mark"
	LabelSeal          Label = "write seal"
	LabelSyncSeal      Label = "sync sealed log file"
	LabelSpareCreate   Label = "create spare file"
	LabelSpareAllocate Label = "allocate spare file"
	LabelSpareZero     Label = "zero spare file"
	LabelSpareSync     Label = "sync spare file"
	LabelSpareRemove   Label = "remove spare file"
	LabelActivate      Label = "write log metadata"
	LabelActivateSync  Label = "sync log metadata"
	LabelActivateName  Label = "name log file"
	LabelContinue      Label = "mark log file continued"
	LabelRewindIntent  Label = "write rewind intent"
	LabelRewindSync    Label = "sync rewind"
	LabelRewindRemove  Label = "remove rewound log file"
	LabelRewindZero    Label = "zero rewound bytes"
	LabelRewindDone    Label = "write rewind result"
	LabelRewindRead    Label = "read up to rewind point"
	LabelTrim          Label = "remove trimmed log file"
	LabelBegin         Label = "begin log at a base"
	LabelBeginRemove   Label = "remove log file below a base"
	LabelReserve       Label = "allocate reserve"
	LabelFreeReserve   Label = "free reserve"
	LabelDamage        Label = "write damage report"
	LabelQuarantine    Label = "move damaged log file"
	LabelReaderOpen    Label = "reader opens log file"
	LabelReaderRead    Label = "reader reads"
	LabelStateOpen     Label = "open hard state"
	LabelStateRead     Label = "read hard state"
	LabelStateWrite    Label = "write hard state"
	LabelStateSync     Label = "sync hard state"
	LabelStateName     Label = "name hard state"
)

// FS is what the log asks of a file system. OS is the real one; package simfs holds one in memory that
// crashes, fails and forgets on order. Names are paths. All calls may come from any goroutine.
//
// Assumptions about the world below, on which recovery rests: a file's bytes are durable once Sync of the file has
// returned; names are durable once SyncDir of their directory has returned; a rename is atomic; a crash leaves of
// every write that was not synced any part at a grain of 64 bytes or more (the first such line lost whole), and
// touches no byte that was synced and not written since.
type FS interface {
	// MkdirAll makes dir and its parents (mode 0700) where they are missing, durably.
	MkdirAll(label Label, dir string) error
	// List returns the names in dir, sorted.
	List(label Label, dir string) ([]string, error)
	// Create makes a file that must not exist, for reading and writing.
	Create(label Label, name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(label Label, name string) (File, error)
	// OpenRead opens an existing file for reading.
	OpenRead(label Label, name string) (File, error)
	// Rename replaces the name atomically; durable after SyncDir of both directories.
	Rename(label Label, source, target string) error
	// Remove removes a name; durable after SyncDir. Who has the file open keeps its bytes.
	Remove(label Label, name string) error
	// Release tells the system that size bytes at offset at of the file name, which were synced, need not stay in memory; size 0 means all there are. It promises
	// nothing, and fails silently.
	Release(label Label, name string, at, size int64)
	// SyncDir makes the names in dir durable.
	SyncDir(label Label, dir string) error
	// Lock takes the exclusive lock that the file name stands for, made if missing, or fails at once if another
	// holder has it. The lock ends with Close or with the process.
	Lock(label Label, name string) (io.Closer, error)
}

// File is an open file. Arguments are not kept. ReadAt may be called beside everything else but WriteZeros; other calls come
// from one goroutine at a time.
type File interface {
	// ReadAt fills p from offset at, or returns an error: io.EOF or io.ErrUnexpectedEOF if the file ends before.
	ReadAt(label Label, p []byte, at int64) (int, error)
	// WriteAt writes all of p at offset at, or returns an error.
	WriteAt(label Label, p []byte, at int64) error
	// WriteBlocks is WriteAt of p and of zeros behind it, to the end of the last block of BlockSize that p touches. The file must be that long, and hold zeros
	// there: the system then need not read what is not in memory of that block.
	WriteBlocks(label Label, p []byte, at int64) error
	// WriteZeros writes size bytes of zero at offset at, both multiples of BlockSize. They take no memory where the system can do without, and need a Sync as
	// all others.
	WriteZeros(label Label, at, size int64) error
	// Allocate makes the file size bytes long and reserves the space; bytes that are new read as zero.
	Allocate(label Label, size int64) error
	// Size returns the length in bytes.
	Size(label Label) (int64, error)
	// Sync makes all bytes and the length durable (fdatasync). After an error nothing is known about any byte
	// written since the last good Sync, and it must not be called again.
	Sync(label Label) error
	// WriteBack has the system begin to bring size bytes at offset at to the device, so that a later Sync finds little left to do. It waits for none of them and
	// promises nothing, not even that they were written: Sync alone does, and tells what went wrong meanwhile.
	WriteBack(label Label, at, size int64)
	// DropCache makes later reads come from the device as far as the system allows. Call after Sync.
	DropCache(label Label) error
	// Removed reports whether the file has no name any more.
	Removed(label Label) (bool, error)
	Close() error
}
