package azureblob

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Sign returns a URL with a shared access signature for one object.
func (s *service) Sign(_ context.Context, method, name string, o *blob.SignOptions) (*blob.Signed, error) {
	// A second more, because the service counts whole ones.
	out := &blob.Signed{Expires: time.Now().Add(o.Life + time.Second).UTC().Truncate(time.Second)}
	values := sas.BlobSignatureValues{
		ExpiryTime: out.Expires, ContainerName: s.container, BlobName: name, Protocol: sas.ProtocolHTTPS,
		Permissions: (&sas.BlobPermissions{Read: method == http.MethodGet, Create: method == http.MethodPut, Write: method == http.MethodPut}).String(),
	}
	if s.public.Scheme == "http" {
		values.Protocol = sas.ProtocolHTTPSandHTTP
	}
	if method == http.MethodGet {
		values.ContentType, values.ContentDisposition = o.ContentType, o.ContentDisposition
	} else {
		out.Headers = putHeaders(o)
	}
	query, err := values.SignWithSharedKey(s.key)
	if err != nil {
		return nil, fault.Say(fault.Invalid, "it cannot be signed")
	}
	out.URL = s.public.String() + "/" + url.PathEscape(name) + "?" + query.Encode()
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
