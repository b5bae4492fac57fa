package session

import (
	"errors"
	"fmt"

	"lockstep/smr"
)

// Ticket names what a caller waits for, ConnID a connection to a master.
type (
	Ticket uint64
	ConnID uint64
)

// TickMillis is the length of a tick in milliseconds.
const TickMillis = 10

// Options of New. All must be set.
type Options struct {
	ID smr.SessionID
	// MaxPending and MaxPendingBytes bound the requests that are neither executed nor refused, in number and in bytes
	// (smr.RequestHeaderSize each included). MaxReads bounds waiting reads, and waiting counts of copies.
	MaxPending, MaxPendingBytes, MaxReads int
	// BatchBytes bounds the requests of one Propose in bytes. A request beyond it goes alone.
	BatchBytes int
	// RefuseAfterTicks is how long there may be no writable master before what is not sent is refused at once.
	RefuseAfterTicks int
	// TimeoutTicks is how long a caller waits at most.
	TimeoutTicks int
	// AskTicks is how long a connection may be silent before it is asked for a sign of life, DeadTicks before it is
	// dropped.
	AskTicks, DeadTicks int
}

// Validate returns all problems of o.
func (o Options) Validate() error {
	var problems []error
	check := func(fine bool, format string, arguments ...any) {
		if !fine {
			problems = append(problems, fmt.Errorf(format, arguments...))
		}
	}
	const largest = smr.RequestHeaderSize + smr.MaxPayload
	check(o.ID != 0, "the session has no id")
	check(o.MaxPending > 0, "%d pending requests: at least 1 must be possible", o.MaxPending)
	check(o.MaxPendingBytes >= largest, "%d bytes of pending requests: the largest request has %d", o.MaxPendingBytes, largest)
	check(o.MaxReads > 0, "%d waiting reads: at least 1 must be possible", o.MaxReads)
	check(o.BatchBytes > 0 && o.BatchBytes <= largest, "batches of %d bytes: 1 to %d are possible", o.BatchBytes, largest)
	check(o.RefuseAfterTicks > 0, "refusing after %d ms", o.RefuseAfterTicks*TickMillis)
	check(o.TimeoutTicks > 0, "a timeout of %d ms", o.TimeoutTicks*TickMillis)
	check(o.AskTicks > 0 && o.DeadTicks > o.AskTicks, "a connection silent for %d ms is asked, for %d ms dropped: the second must be longer",
		o.AskTicks*TickMillis, o.DeadTicks*TickMillis)
	return errors.Join(problems...)
}

// Input of Step: a pointer to one of the types below. Step keeps neither it nor memory it refers to.
type Input interface{ input() }

type (
	// Tick passes time: one every TickMillis.
	Tick struct{}

	// Submit hands in a request. Payload is copied.
	Submit struct {
		Ticket  Ticket
		Slot    uint16
		Flags   uint8
		Payload []byte
	}
	// Read asks for an LSN to read at. Answered in Effects.Reads.
	Read struct{ Ticket Ticket }
	// Count asks how many members hold everything below LSN durably. Answered in Effects.Counts.
	Count struct {
		Ticket Ticket
		LSN    smr.LSN
	}

	// Connected: a master has accepted this connection; it replaces any other.
	Connected struct{ Conn ConnID }
	// Disconnected: the connection is gone.
	Disconnected struct{ Conn ConnID }
	// Busy: bytes are moving to the peer and more are waiting; so its silence is no sign of death.
	Busy struct{ Conn ConnID }
	// ReadReady and CopiesCounted are messages of the master.
	ReadReady struct {
		Conn    ConnID
		Message smr.ReadReady
	}
	CopiesCounted struct {
		Conn    ConnID
		Message smr.CopiesCounted
	}

	// Executed: all requests of this session up to this sequence were executed, or their results found, here.
	Executed struct{ Through uint64 }
	// Writable: the group can commit writes and this node hears of it.
	Writable struct{ Writable bool }
	// Stop answers everything that waits: nothing will be executed here any more.
	Stop struct{}
)

func (*Tick) input()          {}
func (*Submit) input()        {}
func (*Read) input()          {}
func (*Count) input()         {}
func (*Connected) input()     {}
func (*Disconnected) input()  {}
func (*Busy) input()          {}
func (*ReadReady) input()     {}
func (*CopiesCounted) input() {}
func (*Executed) input()      {}
func (*Writable) input()      {}
func (*Stop) input()          {}

// Outcome of a request, a read or a count.
type Outcome uint8

const (
	// Success: a read may be executed, copies were counted. Of requests that are executed the shell knows by itself.
	Success Outcome = iota
	// Refused: a request was never sent and never will be, because the group has no writable master. A read or a count
	// got no answer in time.
	Refused
	// Uncertain: a request was sent and not executed here within the timeout. It may have been committed, may yet be,
	// or never.
	Uncertain
	// TooLarge: the payload exceeds smr.MaxPayload; never sent.
	TooLarge
	// Overloaded: too much is pending; never sent.
	Overloaded
)

func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Refused:
		return "refused"
	case Uncertain:
		return "uncertain"
	case TooLarge:
		return "too large"
	case Overloaded:
		return "overloaded"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Numbered says that the request of that ticket is about to be sent for the first time, with that sequence.
type Numbered struct {
	Ticket   Ticket
	Sequence uint64
}

// Send is a message for the connection: *smr.Propose, *smr.ReadIndex or *smr.CountCopies.
type Send struct {
	Conn    ConnID
	Message any
}

// Done answers a request: Refused, TooLarge or Overloaded with Sequence 0, or Uncertain with the sequence it got.
type Done struct {
	Ticket   Ticket
	Sequence uint64
	Outcome  Outcome
}

// ReadDone answers all waiting reads with tickets up to Through. LSN is valid if Outcome is Success.
type ReadDone struct {
	Through Ticket
	LSN     smr.LSN
	Outcome Outcome
}

// CountDone answers one Count.
type CountDone struct {
	Ticket  Ticket
	Copies  int
	Outcome Outcome
}

// Effects of one or more Steps. The zero value is ready.
type Effects struct {
	Numbered []Numbered
	Send     []Send
	Drop     []ConnID
	Done     []Done
	Reads    []ReadDone
	// ReadsRefused lists reads that were not even taken in.
	ReadsRefused []Done
	Counts       []CountDone
}

// Reset empties e and keeps its memory, without holding on to messages.
func (e *Effects) Reset() {
	clear(e.Send)
	*e = Effects{Numbered: e.Numbered[:0], Send: e.Send[:0], Drop: e.Drop[:0], Done: e.Done[:0], Reads: e.Reads[:0],
		ReadsRefused: e.ReadsRefused[:0], Counts: e.Counts[:0]}
}
