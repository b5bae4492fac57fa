package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"lockstep/smr"
)

// FileInfo is what one log file says of itself.
type FileInfo struct {
	Name           string
	Base, End      smr.LSN // of its data part
	FirstFrame     smr.LSN // where the first frame begins that does so in this file; >= End if none does
	Mark           string  // durable, clean, continued or rewind: what its newest mark means
	Durable        smr.LSN // as of that mark: a lower bound, or the point of a rewind that was begun
	Sealed         bool    // full, with checksums of all pages
	Cluster, Group string
}

// Survey lists the files of the log in dir, the oldest first. It only reads, and may run beside the writer. Errors: ErrCorrupt
// and ErrNewerFormat, naming the file.
func Survey(fsys FS, dir string) ([]FileInfo, error) {
	if fsys == nil {
		fsys = OS{}
	}
	names, err := fsys.List(LabelList, dir)
	if err != nil {
		return nil, fmt.Errorf("list log files: %w", err)
	}
	var list []FileInfo
	for _, name := range names {
		base, ok := parseFileName(name)
		if !ok {
			continue
		}
		info, err := surveyFile(fsys, filepath.Join(dir, name), base)
		if errors.Is(err, fs.ErrNotExist) {
			continue // trimmed or rewound just now
		}
		if err != nil {
			return list, fmt.Errorf("log file %s: %w", name, err)
		}
		list = append(list, info)
	}
	return list, nil
}

func surveyFile(fsys FS, path string, base smr.LSN) (FileInfo, error) {
	file, err := fsys.OpenRead(LabelReaderOpen, path)
	if err != nil {
		return FileInfo{}, err
	}
	defer file.Close()
	f, err := readMeta(file, base)
	if err != nil {
		return FileInfo{}, err
	}
	return FileInfo{
		Name: fileName(base), Base: base, End: f.end(), FirstFrame: f.firstFrame, Mark: f.newest.kind.String(), Durable: f.newest.lsn,
		Sealed: f.seal != nil, Cluster: f.cluster, Group: f.group,
	}, nil
}

func (k slotKind) String() string {
	switch k {
	case slotDurable:
		return "durable"
	case slotClean:
		return "clean"
	case slotContinued:
		return "continued"
	case slotRewind:
		return "rewind"
	}
	return fmt.Sprintf("mark(%#x)", uint32(k))
}
