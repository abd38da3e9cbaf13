package translator

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// definition is what a service's .proto files say. It is never changed once built.
type definition struct {
	files    *protoregistry.Files
	types    *types
	methods  map[string]*method // by path, such as /package.Service/Method
	services []string           // full names, sorted
}

// method is one method of a service.
type method struct {
	path string // /package.Service/Method
	name string // Method

	input, output protoreflect.MessageType
	clientStreams bool
	serverStreams bool
	noOutput      bool // the output message has no fields
}

// kind names how a method streams.
func (m *method) kind() string {
	switch {
	case m.clientStreams && m.serverStreams:
		return "bidirectional streaming"
	case m.clientStreams:
		return "client streaming"
	case m.serverStreams:
		return "server streaming"
	}
	return "unary"
}

// newDefinition indexes linked files.
func newDefinition(files *protoregistry.Files) (*definition, error) {
	d := &definition{files: files, types: &types{Types: dynamicpb.NewTypes(files)}, methods: map[string]*method{}}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			d.addService(file.Services().Get(i))
		}
		return true
	})
	if len(d.methods) == 0 {
		return nil, errors.New("it defines no service with a method")
	}
	slices.Sort(d.services)
	return d, nil
}

func (d *definition) addService(service protoreflect.ServiceDescriptor) {
	d.services = append(d.services, string(service.FullName()))
	for i := range service.Methods().Len() {
		descriptor := service.Methods().Get(i)
		m := &method{
			path:          "/" + string(service.FullName()) + "/" + string(descriptor.Name()),
			name:          string(descriptor.Name()),
			input:         dynamicpb.NewMessageType(descriptor.Input()),
			output:        dynamicpb.NewMessageType(descriptor.Output()),
			clientStreams: descriptor.IsStreamingClient(),
			serverStreams: descriptor.IsStreamingServer(),
			noOutput:      descriptor.Output().Fields().Len() == 0,
		}
		d.methods[m.path] = m
	}
}

// fromSet links a compiled descriptor set, as protoc --include_imports --descriptor_set_out writes it.
func fromSet(set *descriptorpb.FileDescriptorSet) (*definition, error) {
	present := map[string]bool{}
	for _, file := range set.GetFile() {
		present[file.GetName()] = true
	}
	complete := &descriptorpb.FileDescriptorSet{File: slices.Clone(set.GetFile())}
	for i := 0; i < len(complete.File); i++ { // grows: imports of imports
		for _, name := range complete.File[i].GetDependency() {
			if present[name] {
				continue
			}
			if known, err := builtIn(name); err == nil {
				present[name] = true
				complete.File = append(complete.File, protodesc.ToFileDescriptorProto(known))
			}
		}
	}
	files, err := protodesc.NewFiles(complete)
	if err != nil {
		return nil, fmt.Errorf("the descriptors do not fit together: %w", err)
	}
	return newDefinition(files)
}

// builtIn finds the files that need not be published with a service: those of Google that are linked into this
// program, well-known types among them.
func builtIn(name string) (protoreflect.FileDescriptor, error) {
	if !strings.HasPrefix(name, "google/") {
		return nil, protoregistry.NotFound
	}
	return protoregistry.GlobalFiles.FindFileByPath(name)
}

// parseSet reads a serialised descriptor set.
func parseSet(data []byte) (*definition, error) {
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(data, set); err != nil || len(set.GetFile()) == 0 {
		return nil, errors.New("it is neither a tar or tar.gz archive of .proto files nor a compiled descriptor set")
	}
	return fromSet(set)
}

// types finds message and extension types by name, for Any and extensions in JSON.
type types struct{ *dynamicpb.Types }

// FindMessageByName also knows the well-known types where the service's files do not import them.
func (t *types) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	found, err := t.Types.FindMessageByName(name)
	if err != nil && strings.HasPrefix(string(name), "google.protobuf.") {
		return protoregistry.GlobalTypes.FindMessageByName(name)
	}
	return found, err
}

// FindMessageByURL is FindMessageByName for the type URL of an Any.
func (t *types) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return t.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

// paths lists the methods, sorted.
func (d *definition) paths() []string { return slices.Sorted(maps.Keys(d.methods)) }
