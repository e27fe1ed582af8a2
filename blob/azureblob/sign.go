package azureblob

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Sign returns a URL with a shared access signature for one object. A GET is answered with the type and disposition that
// are signed. What a PUT sends is not bound by the signature: its headers are to be sent, so that they are kept, but who
// holds the URL may send others, and any bytes; a checksum in Stat is then no more than what he has said.
func (s *Store) Sign(ctx context.Context, method, key string, o *blob.SignOptions) (*blob.Signed, error) {
	if o == nil {
		o = &blob.SignOptions{}
	}
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	life := o.Life
	if life == 0 {
		life = time.Hour
	}
	switch {
	case method != http.MethodGet && method != http.MethodPut:
		return nil, fmt.Errorf("azureblob: sign %q: %w: the method %.20q; only GET and PUT can be signed", key, fault.Unsupported, method)
	case life < blob.MinLife || life > blob.MaxLife || life%time.Second != 0:
		return nil, fmt.Errorf("azureblob: sign %q: %w: a life of %v is not one of whole seconds from %v to %v", key, fault.Invalid, life, blob.MinLife, blob.MaxLife)
	case o.Size < 0 || o.SHA256 != "" && !isSHA256(o.SHA256):
		return nil, fmt.Errorf("azureblob: sign %q: %w: the size is negative or the SHA-256 is none", key, fault.Invalid)
	}
	// A second more, because the service counts whole ones.
	expires := time.Now().Add(life + time.Second).UTC().Truncate(time.Second)
	values := sas.BlobSignatureValues{
		ExpiryTime: expires, ContainerName: s.container, BlobName: name, Protocol: sas.ProtocolHTTPS,
		Permissions: (&sas.BlobPermissions{Read: method == http.MethodGet, Create: method == http.MethodPut, Write: method == http.MethodPut}).String(),
	}
	base, err := url.Parse(s.public)
	if err != nil {
		return nil, fmt.Errorf("azureblob: sign %q: %w: the endpoint is no URL", key, fault.Invalid)
	}
	if base.Scheme == "http" {
		values.Protocol = sas.ProtocolHTTPSandHTTP
	}
	out := &blob.Signed{Method: method, Expires: expires}
	if method == http.MethodGet {
		values.ContentType, values.ContentDisposition = o.ContentType, o.ContentDisposition
	} else {
		out.Headers = putHeaders(o)
	}
	query, err := values.SignWithSharedKey(s.key)
	if err != nil {
		return nil, fmt.Errorf("azureblob: sign %q: %w: it cannot be signed", key, fault.Invalid)
	}
	out.URL = base.String() + "/" + url.PathEscape(name) + "?" + query.Encode()
	return out, nil
}

// putHeaders returns the headers that a PUT must send for its object to be kept as the options say.
func putHeaders(o *blob.SignOptions) map[string]string {
	headers := map[string]string{"X-Ms-Blob-Type": "BlockBlob"} // without which the service refuses it
	for field, text := range map[string]string{
		"Content-Type": o.ContentType, "X-Ms-Blob-Content-Disposition": o.ContentDisposition, "X-Ms-Meta-Sha256": o.SHA256,
	} {
		if text != "" {
			headers[field] = text
		}
	}
	if o.Size > 0 {
		headers["Content-Length"] = strconv.FormatInt(o.Size, 10)
	}
	return headers
}
