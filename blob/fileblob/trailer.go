package fileblob

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/dayfly-run/dayfly/blob"
)

// A file ends with
//
//	the metadata as JSON
//	4 bytes  its length, little-endian
//	4 bytes  its CRC-32C, little-endian
//	8 bytes  "dayfly-1"
const (
	trailerMagic = "dayfly-1"
	trailerFixed = 16
	maxMetadata  = 4096
)

// metadata is what the trailer says of the bytes before it.
type metadata struct {
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
	ContentType string `json:"content_type,omitempty"`
}

func encodeTrailer(m metadata) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	n := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)))
	return append(b, trailerMagic...), nil
}

var errTrailer = errors.New("the file is damaged: it does not end with a valid trailer")

// decodeTrailer reads the metadata at the end of a file, of which tail is the last part. fileSize is the whole file's.
func decodeTrailer(tail []byte, fileSize int64) (m metadata, err error) {
	if len(tail) < trailerFixed || !bytes.HasSuffix(tail, []byte(trailerMagic)) {
		return m, errTrailer
	}
	fixed := tail[len(tail)-trailerFixed:]
	length := binary.LittleEndian.Uint32(fixed)
	text := tail[:len(tail)-trailerFixed]
	if length > maxMetadata || int(length) > len(text) {
		return m, errTrailer
	}
	text = text[len(text)-int(length):]
	if crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(fixed[4:]) {
		return m, errTrailer
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, errTrailer
	}
	if m.Size != fileSize-trailerFixed-int64(length) {
		return m, fmt.Errorf("the file is damaged: it holds %d bytes before its trailer, which says %d", fileSize-trailerFixed-int64(length), m.Size)
	}
	return m, nil
}

func readTrailer(file *os.File) (*blob.Info, error) {
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	// Most metadata is short, so one small read is nearly always enough.
	for _, n := range []int64{512, maxMetadata + trailerFixed} {
		n = min(n, stat.Size())
		tail := make([]byte, n)
		if _, err := file.ReadAt(tail, stat.Size()-n); err != nil && err != io.EOF {
			return nil, err
		}
		m, decodeErr := decodeTrailer(tail, stat.Size())
		if decodeErr == nil {
			return &blob.Info{Size: m.Size, SHA256: m.SHA256, ContentType: m.ContentType, StoredAt: stat.ModTime().UTC()}, nil
		}
		err = decodeErr
	}
	return nil, err
}
