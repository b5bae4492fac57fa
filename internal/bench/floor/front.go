package floor

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Marks of a front's sockets; clients have theirs from 0 on.
const markLogger = markListener - 1

// front takes clients, or executes what a logger hands to it.
type front struct {
	config    Config
	poller    *poller
	logger    stream
	heard     *inbound // numbers of committed frames
	piece     memory   // what was read of a client
	out       memory   // what is written to one
	clients   []*client
	free      []int // places in clients
	gathering *batch
	underWay  []*batch // in the order of their numbers
	spare     []*batch
	number    uint64 // of the last frame
	table     table  // nil unless full
}

// client is a connection.
type client struct {
	stream
	place int    // in the front's clients
	rest  []byte // the beginning of a command
	waits int    // its commands in batches that are not committed
}

// batch is a frame with those who wait for it.
type batch struct {
	memory
	end     int
	number  uint64
	entries []entry
}

// entry is some commands of one client, one after the other.
type entry struct {
	client *client
	count  int
	reads  bool // GETs behind SETs that are not committed; else SETs
}

const (
	pieceSize = 256 << 10
	outSize   = 4 << 20
	// fullOut is when no further reply may fit into out.
	fullOut = outSize - maxPart - 64
)

var (
	replyOK      = []byte("+OK\r\n")
	replyNothing = []byte("$-1\r\n")
	// replyFixed is the value of every key unless the skeleton is full: 64 bytes.
	replyFixed = []byte("$64\r\n" + "0123456789abcdef" + "0123456789abcdef" + "0123456789abcdef" + "0123456789abcdef" + "\r\n")
)

// runFront is the whole life of a front's process.
func runFront(c Config) error {
	f := &front{config: c, heard: newInbound(pageSize), piece: newMemory(pieceSize), out: newMemory(outSize)}
	if c.Full {
		f.table = make(table)
	}
	var err error
	if f.poller, err = newPoller(); err != nil {
		return err
	}
	fd, err := dial(unix.AF_UNIX, &unix.SockaddrUnix{Name: c.Node + ".sock"})
	if err != nil {
		return err
	}
	if f.logger, err = f.poller.open(fd, markLogger); err != nil {
		return err
	}
	if c.Follows {
		f.heard = newInbound(maxRun)
		c.ready(0)
		return f.follow()
	}
	for range c.Flights + 2 { // under way, gathering, being answered
		f.spare = append(f.spare, &batch{memory: newMemory(maxFrame), end: headerSize})
	}
	f.gathering, f.spare = f.spare[0], f.spare[1:]
	listener, port, err := listenTCP()
	if err == nil {
		err = f.poller.watch(listener, markListener)
	}
	if err != nil {
		return err
	}
	c.ready(port)
	return f.serve(listener)
}

// follow executes what is committed.
func (f *front) follow() error {
	for {
		if _, err := f.poller.wait(-1); err != nil {
			return err
		}
		if err := f.digest(); err != nil {
			return err
		}
	}
}

// digest executes the committed frames that have come.
func (f *front) digest() error {
	for more := true; more; {
		var err error
		if more, err = f.heard.receive(f.logger.fd); err != nil {
			return fmt.Errorf("frames of the logger: %w", err)
		}
		end, _, err := f.heard.frames()
		if err != nil {
			return err
		}
		for at := 0; at < end; {
			size := header(f.heard.bytes[at:]).size()
			if err := f.table.execute(f.heard.bytes[at+headerSize : at+size]); err != nil {
				return err
			}
			at += size
		}
		f.heard.drop(end)
	}
	return nil
}

// serve is the loop of the front that has clients.
func (f *front) serve(listener int) error {
	for {
		n, err := f.poller.wait(-1)
		if err != nil {
			return err
		}
		for i := range n {
			switch mark := int(f.poller.ready[i].Fd); mark {
			case markListener:
				err = f.admit(listener)
			case markLogger:
				err = f.hear()
			default:
				f.attend(f.clients[mark])
			}
			if err != nil {
				return err
			}
		}
		if err := f.propose(); err != nil {
			return err
		}
	}
}

// admit takes new clients.
func (f *front) admit(listener int) error {
	for {
		fd, err := accept(listener)
		if err != nil || fd < 0 {
			return err
		}
		if len(f.free) == 0 {
			f.free = append(f.free, len(f.clients))
			f.clients = append(f.clients, nil)
		}
		place := f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
		to, err := f.poller.open(fd, place)
		if err != nil {
			return err
		}
		f.clients[place] = &client{stream: to, place: place}
	}
}

// attend takes what a client sends. One that sends what is not understood, or too much, is cut off.
func (f *front) attend(c *client) {
	if c.fd < 0 {
		return
	}
	err := c.flush(f.out)
	for more := true; more && err == nil; {
		n := 0
		begin := copy(f.piece.bytes, c.rest)
		if n, err = f.piece.read(c.fd, begin); err != nil || n == 0 {
			break
		}
		more = begin+n == len(f.piece.bytes)
		err = f.take(c, f.piece.bytes[:begin+n])
	}
	if err != nil {
		f.lose(c)
	}
}

// lose cuts a client off. Batches may still name it.
func (f *front) lose(c *client) {
	c.close()
	f.free = append(f.free, c.place)
}

// take answers GETs and gathers SETs.
func (f *front) take(c *client, piece []byte) error {
	replies := 0
	for len(piece) > 0 {
		request, err := parse(piece)
		if err != nil {
			text := append(strconv.AppendQuote(append(f.out.bytes[:replies], "-ERR "...), err.Error()), "\r\n"...)
			return errors.Join(err, c.send(f.out, 0, len(text)))
		}
		if request.size == 0 {
			break
		}
		if request.value != nil || c.waits > 0 {
			if err := f.gather(c, piece[:request.size], request.value == nil); err != nil {
				return err
			}
		} else {
			replies = f.read(request.key, replies)
			if replies > fullOut {
				if err := c.send(f.out, 0, replies); err != nil {
					return err
				}
				replies = 0
			}
		}
		piece = piece[request.size:]
	}
	if len(piece) == len(f.piece.bytes) {
		return errors.New("a command is too long")
	}
	c.rest = append(c.rest[:0], piece...)
	if replies == 0 {
		return nil
	}
	return c.send(f.out, 0, replies)
}

// read appends the reply to a GET to out.
func (f *front) read(key []byte, at int) int {
	if f.table == nil {
		return at + copy(f.out.bytes[at:], replyFixed)
	}
	value, found := f.table[string(key)]
	if !found {
		return at + copy(f.out.bytes[at:], replyNothing)
	}
	text := append(f.out.bytes[:at], '$')
	text = strconv.AppendInt(text, int64(len(value)), 10)
	text = append(text, "\r\n"...)
	text = append(text, value...)
	return len(append(text, "\r\n"...))
}

var errFull = errors.New("too many writes wait for a frame")

// gather puts a command into the next frame.
func (f *front) gather(c *client, request []byte, reads bool) error {
	b := f.gathering
	if b.end+len(request) > len(b.bytes) {
		return errFull
	}
	b.end += copy(b.bytes[b.end:], request)
	c.waits++
	if n := len(b.entries); n > 0 && b.entries[n-1].client == c && b.entries[n-1].reads == reads {
		b.entries[n-1].count++
		return nil
	}
	b.entries = append(b.entries, entry{c, 1, reads})
	return nil
}

// propose sends the next frame to the logger, if there is one and it may be under way.
func (f *front) propose() error {
	b := f.gathering
	if b.end == headerSize || len(f.underWay) == f.config.Flights {
		return nil
	}
	f.number++
	b.number = f.number
	header(b.bytes).set(b.end, b.number, 0)
	if err := f.logger.send(b.memory, 0, b.end); err != nil {
		return fmt.Errorf("send to the logger: %w", err)
	}
	f.underWay = append(f.underWay, b)
	f.gathering, f.spare = f.spare[0], f.spare[1:]
	return nil
}

// hear takes what the logger says is committed. The next frame goes before the replies to this one are written.
func (f *front) hear() error {
	if err := f.logger.flush(f.out); err != nil {
		return fmt.Errorf("send to the logger: %w", err)
	}
	if _, err := f.heard.receive(f.logger.fd); err != nil {
		return fmt.Errorf("what the logger says: %w", err)
	}
	committed := f.heard.number()
	for len(f.underWay) > 0 && f.underWay[0].number <= committed {
		b := f.underWay[0]
		f.underWay = append(f.underWay[:0], f.underWay[1:]...)
		if err := f.propose(); err != nil {
			return err
		}
		if err := f.answer(b); err != nil {
			return err
		}
		b.end, b.entries = headerSize, b.entries[:0]
		f.spare = append(f.spare, b)
	}
	return nil
}

// answer executes a committed frame and writes the replies, all of a client's that follow each other at once.
func (f *front) answer(b *batch) error {
	commands := b.bytes[headerSize:b.end]
	replies := 0
	for i := range b.entries {
		e := &b.entries[i]
		for range e.count {
			var err error
			if replies, commands, err = f.execute(e.reads, commands, replies); err != nil {
				return err
			}
			if replies > fullOut {
				f.reply(e.client, replies)
				replies = 0
			}
		}
		e.client.waits -= e.count
		if i+1 == len(b.entries) || b.entries[i+1].client != e.client {
			f.reply(e.client, replies)
			replies = 0
		}
	}
	return nil
}

// execute executes the first command, and appends its reply to out. A skeleton that is not full does not look at it.
func (f *front) execute(reads bool, commands []byte, at int) (replies int, rest []byte, err error) {
	var request command
	if f.table != nil {
		if request, err = parse(commands); err != nil {
			return 0, nil, err
		}
	}
	if reads {
		return f.read(request.key, at), commands[request.size:], nil
	}
	if f.table != nil {
		f.table.set(request.key, request.value)
	}
	return at + copy(f.out.bytes[at:], replyOK), commands[request.size:], nil
}

// reply sends what stands in out.
func (f *front) reply(c *client, size int) {
	if c.fd >= 0 && size > 0 && c.send(f.out, 0, size) != nil {
		f.lose(c)
	}
}
