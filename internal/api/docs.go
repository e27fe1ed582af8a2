package api

import (
	"bytes"
	"fmt"
	"html"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// writeDocs writes a page about the API for people. It is plain HTML, made once, with nothing to load from anywhere;
// a template engine would keep the linker from dropping what is not used, and make the program a third larger.
func writeDocs(b *bytes.Buffer, spec *huma.OpenAPI) {
	text := html.EscapeString
	b.WriteString("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n")
	b.WriteString("<title>Dayfly API</title>\n<style>body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222}" +
		"h2{margin-top:2.5rem;font-size:1.1rem}code{font-family:ui-monospace,monospace}table{border-collapse:collapse}td{padding:.15rem .8rem .15rem 0;vertical-align:top}" +
		"small{color:#555}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}a{color:#8cf}small{color:#aaa}}</style>\n")
	fmt.Fprintf(b, "<h1>Dayfly API <small>%s</small></h1>\n<p>%s</p>\n<p>For programs: <a href=\"/openapi.json\">/openapi.json</a>.</p>\n",
		text(spec.Info.Version), text(spec.Info.Description))
	for _, operation := range operations(spec) {
		fmt.Fprintf(b, "<h2 id=%q><code>%s %s</code></h2>\n<p>%s.", operation.OperationID, operation.Method, text(operation.Path), text(operation.Summary))
		if operation.Description != "" {
			fmt.Fprintf(b, " %s", text(operation.Description))
		}
		if scope, ok := operation.Extensions["x-scope"].(string); ok {
			fmt.Fprintf(b, " <small>Scope: %s.</small>", text(scope))
		}
		b.WriteString("</p>\n")
		var rows []row
		for _, p := range operation.Parameters {
			rows = append(rows, row{p.Name, p.In, p.Description})
		}
		if body := operation.RequestBody; body != nil {
			if object := body.Content["application/json"]; object != nil {
				rows = append(rows, members(spec, object.Schema)...)
			} else {
				rows = append(rows, row{"", "body", body.Description})
			}
		}
		writeTable(b, rows)
	}
	b.WriteString("</html>\n")
}

// row is a row of a table: a name, where it goes, and what it means.
type row [3]string

func writeTable(b *bytes.Buffer, rows []row) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("<table>\n")
	for _, r := range rows {
		fmt.Fprintf(b, "<tr><td><code>%s</code><td><small>%s</small><td>%s\n", html.EscapeString(r[0]), html.EscapeString(r[1]), html.EscapeString(r[2]))
	}
	b.WriteString("</table>\n")
}

// members returns a row for each member of an object.
func members(spec *huma.OpenAPI, schema *huma.Schema) (rows []row) {
	if schema.Ref != "" {
		schema = spec.Components.Schemas.SchemaFromRef(schema.Ref)
	}
	for name, member := range schema.Properties {
		rows = append(rows, row{name, "body", member.Description})
	}
	slices.SortFunc(rows, func(x, y row) int { return strings.Compare(x[0], y[0]) })
	return rows
}

// operations returns all operations, by path and method.
func operations(spec *huma.OpenAPI) (all []*huma.Operation) {
	for _, item := range spec.Paths {
		for _, operation := range []*huma.Operation{item.Get, item.Head, item.Put, item.Post, item.Delete} {
			if operation != nil {
				all = append(all, operation)
			}
		}
	}
	slices.SortFunc(all, func(x, y *huma.Operation) int {
		return strings.Compare(x.Path+" "+x.Method, y.Path+" "+y.Method)
	})
	return all
}
