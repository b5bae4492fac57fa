package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// server is a redis-server that this process started, and one connection to it.
type server struct {
	process *exec.Cmd
	dir     string
	conn    net.Conn
	buffer  []byte
}

// startServer starts redis-server on a free port of the loopback interface, with one database and no persistence.
func startServer(binary string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	dir, err := os.MkdirTemp("", "oracle")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	s.process = exec.Command(binary, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--databases", strconv.Itoa(kv.Databases), "--dir", dir, "--enable-debug-command", "yes")
	output, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go io.Copy(io.Discard, output) // ends with the server
			if s.conn, err = net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
				break
			}
			return s, nil
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s did not come up: %w", binary, err)
}

// stop ends the server by the handle of its process.
func (s *server) stop() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.process.Process.Kill()
	s.process.Wait()
	os.RemoveAll(s.dir)
}

// do sends one command and returns the bytes of its reply.
func (s *server) do(args ...string) ([]byte, error) {
	var request resp.Reply
	request.Array(len(args))
	for _, arg := range args {
		request.BulkString(arg)
	}
	if _, err := s.conn.Write(request.Buf); err != nil {
		return nil, err
	}
	reply, err := s.receive()
	if err != nil {
		return nil, fmt.Errorf("reply to %s: %w", strings.Join(args, " "), err)
	}
	return reply, nil
}

// receive returns the bytes of the next reply.
func (s *server) receive() ([]byte, error) {
	chunk := make([]byte, 64<<10)
	for {
		_, used, err := resp.Decode(s.buffer)
		if err != nil {
			return nil, err
		}
		if used > 0 {
			reply := append([]byte(nil), s.buffer[:used]...)
			s.buffer = s.buffer[used:]
			return reply, nil
		}
		n, err := s.conn.Read(chunk)
		if err != nil {
			return nil, err
		}
		s.buffer = append(s.buffer, chunk[:n]...)
	}
}

// doAll sends commands in one go and returns the bytes of their replies.
func (s *server) doAll(commands [][]string) ([][]byte, error) {
	var request resp.Reply
	for _, args := range commands {
		request.Array(len(args))
		for _, arg := range args {
			request.BulkString(arg)
		}
	}
	if _, err := s.conn.Write(request.Buf); err != nil {
		return nil, err
	}
	replies := make([][]byte, 0, len(commands))
	for range commands {
		reply, err := s.receive()
		if err != nil {
			return nil, fmt.Errorf("reply to %q: %w", commands[len(replies)], err)
		}
		replies = append(replies, reply)
	}
	return replies, nil
}
