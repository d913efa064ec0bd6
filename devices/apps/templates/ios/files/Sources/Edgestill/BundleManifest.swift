import Foundation

/// What an app reads of a bundle's `manifest.json`; libedgestill checks its digest and hashes when it opens it.
public struct BundleManifest: Decodable, Sendable {
    public struct Artifact: Decodable, Sendable {
        public let name: String
        public let format: String
        public let sizeBytes: Int
    }

    public struct Defaults: Decodable, Sendable {
        public let maxNewTokens: Int32
        public let temperature: Float?
        public let stop: [String]?
    }

    public let schema: String
    public let name: String
    public let contentSha256: String
    public let chatTemplate: String?
    public let artifacts: [Artifact]
    private let generation: Defaults

    /// Whether the model was trained on conversations.
    public var chat: Bool { chatTemplate != nil }

    /// How the model is meant to answer.
    public var answer: Generation {
        var asked = Generation()
        asked.maxNewTokens = generation.maxNewTokens
        asked.temperature = generation.temperature ?? 0
        asked.stop = generation.stop ?? []
        return asked
    }

    /// Read a bundle's manifest. Throws when it isn't one, or of a version that this app doesn't know.
    public static func read(_ bundle: URL) throws -> BundleManifest {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let manifest = try decoder.decode(
            BundleManifest.self, from: Data(contentsOf: bundle.appendingPathComponent("manifest.json")))
        guard manifest.schema == "edgestill.bundle/1" else {
            throw CocoaError(
                .fileReadUnknown, userInfo: [NSLocalizedDescriptionKey: "manifest.json: a schema of another version"])
        }
        return manifest
    }

    /// The GGUF artifact that lies in the bundle's folder: an app carries one of those that the manifest lists.
    public func carried(in bundle: URL) -> Artifact? {
        artifacts.first { artifact in
            let folder = bundle.appendingPathComponent("artifacts").appendingPathComponent(artifact.name)
            return artifact.format == "gguf" && FileManager.default.fileExists(atPath: folder.path)
        }
    }
}

/// The prompts of a bundle's `golden.jsonl`, as a person would have typed them.
public func goldenPrompts(_ bundle: URL) throws -> [String] {
    struct Row: Decodable {
        let prompt: Prompt
    }
    enum Prompt: Decodable {
        case text(String)
        case messages([Message])

        init(from decoder: any Decoder) throws {
            let value = try decoder.singleValueContainer()
            if let text = try? value.decode(String.self) {
                self = .text(text)
            } else {
                self = .messages(try value.decode([Message].self))
            }
        }
    }
    let lines = try String(contentsOf: bundle.appendingPathComponent("golden.jsonl"), encoding: .utf8)
    return try lines.split(separator: "\n").map { line in
        switch try JSONDecoder().decode(Row.self, from: Data(line.utf8)).prompt {
        case .text(let text): return text
        case .messages(let messages): return messages.last { $0.role == "user" }?.content ?? ""
        }
    }
}
