package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// packed are the files and directories of the source tree that go into an archive beside the programs, and where.
var packed = []struct{ source, target string }{
	{"LICENSE", "LICENSE"},
	{"README.md", "README.md"},
	{"SECURITY.md", "SECURITY.md"},
	{"deploy/config", "config"},
	{"deploy/install.sh", "install.sh"},
	{"deploy/systemd", "systemd"},
	{"docs", "docs"},
}

// pack writes an archive whose bytes depend on its content only: fixed order, owner, modes and times.
func pack(tree, bin, target, top string, when time.Time) error {
	file, err := os.Create(target)
	if err != nil {
		return err
	}
	defer file.Close()
	compressed, err := gzip.NewWriterLevel(file, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := &archive{tar.NewWriter(compressed), when}
	for _, entry := range packed {
		if err := archive.addTree(filepath.Join(tree, entry.source), path.Join(top, entry.target)); err != nil {
			return err
		}
	}
	for _, program := range programs {
		if err := archive.addFile(filepath.Join(bin, program), path.Join(top, program)); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), compressed.Close(), file.Close())
}

type archive struct {
	*tar.Writer
	when time.Time
}

// addTree adds a file, or every file below a directory in the order of their names.
func (a *archive) addTree(source, target string) error {
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		below, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		return a.addFile(name, path.Join(target, filepath.ToSlash(below)))
	})
}

func (a *archive) addFile(source, target string) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: target, Mode: mode, Size: int64(len(content)), ModTime: a.when, Format: tar.FormatPAX,
		Uname: "root", Gname: "root"}
	if err := a.WriteHeader(header); err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if n, err := a.Write(content); err != nil || n != len(content) {
		return errors.Join(err, io.ErrShortWrite)
	}
	return nil
}
