package ctl

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/log"
	"lockstep/smr"
)

const testFileSize = 16 << 10

// makeLog writes a log of several files and returns where it ends and the LSN of each frame.
func makeLog(t *testing.T, dir string) (end smr.LSN, frames []smr.LSN) {
	t.Helper()
	l, _, err := log.Open(log.Options{Dir: dir, FileSize: testFileSize, Cluster: "c", Group: "g1", Synchronous: true})
	if err != nil {
		t.Fatal(err)
	}
	config := smr.Config{Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 7}}}
	at := smr.LSN(0)
	appendFrame := func(f smr.Frame) {
		f.LSN, f.Epoch, f.Stamp = at, 1, 1_700_000_000_000+int64(at)
		frame := smr.AppendFrame(nil, f)
		if err := l.Append(frame); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, at)
		at += smr.LSN(len(frame))
	}
	appendFrame(smr.Frame{Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})
	for i := range 60 {
		body := smr.AppendRequest(nil, smr.Request{Session: 5, Sequence: uint64(i + 1), Slot: 3, Payload: []byte(fmt.Sprintf("payload %03d %s", i, strings.Repeat("x", 900)))})
		appendFrame(smr.Frame{Kind: smr.KindRequests, Count: 1, Body: body})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return at, frames
}

// flip changes one byte of the stream at lsn.
func flip(t *testing.T, dir string, lsn smr.LSN) {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("%020d", lsn/testFileSize*testFileSize))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[lsn%testFileSize] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyAndDumpOfASoundLog(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "log")
	end, frames := makeLog(t, dir)
	for _, path := range []string{home, dir} {
		stdout, stderr, code := run(t, "log", "verify", path)
		if want := fmt.Sprintf("%d frames from 0 to %d check", len(frames), end); code != 0 || !strings.Contains(stdout, want) || !strings.Contains(stdout, "sealed") {
			t.Errorf("verify %s: exit code %d, want %q\n%s%s", path, code, want, stdout, stderr)
		}
	}
	stdout, stderr, code := run(t, "log", "dump", home, "-o", "json")
	if lines := strings.Count(stdout, "\n"); code != 0 || lines != len(frames) || !strings.Contains(stdout, `"config":"reign 1 master n1 copies 1`) {
		t.Errorf("dump: exit code %d, %d lines, want %d\n%s%s", code, lines, len(frames), stdout, stderr)
	}
	stdout, _, code = run(t, "log", "dump", home, "--from", fmt.Sprint(frames[10]), "--count", "2", "--payload")
	if code != 0 || !strings.Contains(stdout, "payload 009") || !strings.Contains(stdout, "payload 010") || strings.Contains(stdout, "payload 011") || strings.Contains(stdout, "payload 008") {
		t.Errorf("dump of two frames: exit code %d\n%s", code, stdout)
	}
	if stdout, stderr, code = run(t, "log", "verify", filepath.Join(dir, "00000000000000016384")); code != 0 {
		t.Errorf("verify of one file: exit code %d\n%s%s", code, stdout, stderr)
	}
}

// What could go wrong: verify calls a damaged log sound. One byte is flipped in a sealed file, in the last file, and in a
// file's metadata; a file is taken away. Each must be found, with exit code 1.
func TestVerifyFindsDamage(t *testing.T) {
	cases := map[string]func(t *testing.T, dir string, end smr.LSN){
		"sealed file": func(t *testing.T, dir string, _ smr.LSN) { flip(t, dir, 20_000) },
		"last file":   func(t *testing.T, dir string, end smr.LSN) { flip(t, dir, end-10) },
		"metadata": func(t *testing.T, dir string, _ smr.LSN) {
			path := filepath.Join(dir, fmt.Sprintf("%020d", testFileSize))
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content[len(content)-4096+60] ^= 1
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"hole": func(t *testing.T, dir string, _ smr.LSN) {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%020d", testFileSize))); err != nil {
				t.Fatal(err)
			}
		},
		"last file gone": func(t *testing.T, dir string, end smr.LSN) {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%020d", end/testFileSize*testFileSize))); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			end, _ := makeLog(t, dir)
			damage(t, dir, end)
			stdout, stderr, code := run(t, "log", "verify", dir)
			if code != 1 || stdout != "" {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
		})
	}
}

// What could go wrong: what a crash leaves behind the durable mark is called damage. Bytes of a frame that was never finished
// follow the end.
func TestTornTailIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	end, frames := makeLog(t, dir)
	path := filepath.Join(dir, fmt.Sprintf("%020d", end/testFileSize*testFileSize))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := smr.AppendFrame(nil, smr.Frame{LSN: end, Epoch: 1, Stamp: 1_800_000_000_000, Kind: smr.KindRequests, Count: 1,
		Body: smr.AppendRequest(nil, smr.Request{Session: 5, Sequence: 61, Payload: bytes.Repeat([]byte("y"), 200)})})
	copy(content[end%testFileSize:], torn[:len(torn)/2])
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := run(t, "log", "verify", dir)
	if want := fmt.Sprintf("%d frames from 0 to %d check", len(frames), end); code != 0 || !strings.Contains(stdout, want) {
		t.Errorf("exit code %d, want %q\n%s%s", code, want, stdout, stderr)
	}
}

func TestLogOfSomethingElse(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "notes"), filepath.Join(dir, "missing")} {
		if stdout, stderr, code := run(t, "log", "dump", path); code != 1 || stdout != "" || !strings.Contains(stderr, filepath.Base(path)) {
			t.Errorf("%s: exit code %d\n%s%s", path, code, stdout, stderr)
		}
	}
}
