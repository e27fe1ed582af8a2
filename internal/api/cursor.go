package api

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"net/http"

	"github.com/dayfly-run/dayfly/fault"
)

// cursor says where the next page of a list begins. It carries a checksum over the list, its filters and the place,
// so that one which was cut, changed or used for another list is noticed and does not answer with the wrong page.
// That is no authority: whoever may list may see every page.
type cursor struct {
	list    string
	filters string
}

// filtersOf returns what a list is filtered by, in one form.
func filtersOf(r *http.Request) string {
	query := r.URL.Query()
	query.Del("cursor")
	query.Del("limit")
	return query.Encode()
}

func (c cursor) checksum(place string) uint32 {
	return crc32.ChecksumIEEE([]byte(c.list + "?" + c.filters + "#" + place))
}

// seal returns the cursor that stands for a place.
func (c cursor) seal(place string) string {
	b := binary.BigEndian.AppendUint32(nil, c.checksum(place))
	return base64.RawURLEncoding.EncodeToString(append(b, place...))
}

// open returns the place that a cursor stands for; "" stands for the beginning.
func (c cursor) open(text string) (place string, err error) {
	if text == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 5 || binary.BigEndian.Uint32(b) != c.checksum(string(b[4:])) {
		return "", errCursor()
	}
	return string(b[4:]), nil
}

func errCursor() error {
	return fault.Field("cursor", "is not the next_cursor of a page of this list with these filters; begin again without it")
}
