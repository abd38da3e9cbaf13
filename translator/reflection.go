package translator

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// ReflectionServices are the paths, as prefixes, of gRPC server reflection.
var ReflectionServices = []string{
	"/" + reflectionv1.ServerReflection_ServiceDesc.ServiceName + "/",
	"/" + reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName + "/",
}

// registerReflection offers the service's definition to tools, in both versions of the protocol.
func (s *Server) registerReflection(server *grpc.Server) {
	options := reflection.ServerOptions{
		Services: reflected{s}, DescriptorResolver: reflected{s}, ExtensionResolver: reflected{s},
	}
	reflectionv1.RegisterServerReflectionServer(server, reflection.NewServerV1(options))
	reflectionv1alpha.RegisterServerReflectionServer(server, reflection.NewServer(options))
}

// reflected answers from the definition in force.
type reflected struct{ server *Server }

func (r reflected) definition() *definition {
	if current := r.server.runtime.Load(); current != nil {
		return current.definition
	}
	return nil
}

// GetServiceInfo lists the services; tools only read the names.
func (r reflected) GetServiceInfo() map[string]grpc.ServiceInfo {
	list := map[string]grpc.ServiceInfo{}
	if d := r.definition(); d != nil {
		for _, name := range d.services {
			list[name] = grpc.ServiceInfo{}
		}
	}
	return list
}

func (r reflected) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if d := r.definition(); d != nil {
		return d.files.FindFileByPath(path)
	}
	return nil, protoregistry.NotFound
}

func (r reflected) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d := r.definition(); d != nil {
		return d.files.FindDescriptorByName(name)
	}
	return nil, protoregistry.NotFound
}

func (r reflected) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	if d := r.definition(); d != nil {
		return d.types.FindExtensionByName(name)
	}
	return nil, protoregistry.NotFound
}

func (r reflected) FindExtensionByNumber(message protoreflect.FullName, field protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	if d := r.definition(); d != nil {
		return d.types.FindExtensionByNumber(message, field)
	}
	return nil, protoregistry.NotFound
}

// RangeExtensionsByMessage calls visit for each extension of a message.
func (r reflected) RangeExtensionsByMessage(message protoreflect.FullName, visit func(protoreflect.ExtensionType) bool) {
	d := r.definition()
	if d == nil {
		return
	}
	d.files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		return rangeExtensions(d, file, message, visit)
	})
}

// extended is a file or a message, both of which may hold extensions.
type extended interface {
	Messages() protoreflect.MessageDescriptors
	Extensions() protoreflect.ExtensionDescriptors
}

func rangeExtensions(d *definition, place extended, message protoreflect.FullName, visit func(protoreflect.ExtensionType) bool) bool {
	for i := range place.Extensions().Len() {
		extension := place.Extensions().Get(i)
		if extension.ContainingMessage().FullName() != message {
			continue
		}
		if found, err := d.types.FindExtensionByName(extension.FullName()); err == nil && !visit(found) {
			return false
		}
	}
	for i := range place.Messages().Len() {
		if !rangeExtensions(d, place.Messages().Get(i), message, visit) {
			return false
		}
	}
	return true
}
