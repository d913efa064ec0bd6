import Edgestill
import Foundation
import SwiftUI

#if canImport(UIKit)
import UIKit
#endif

/// The app's model: opened and tested at the first start, opened again after the system asked for its memory.
@MainActor
public final class LocalModel: ObservableObject {
    @Published public private(set) var name = ""
    @Published public private(set) var status = "Opening the model"
    @Published public private(set) var prompts: [String] = []
    @Published public private(set) var ready = false
    @Published public private(set) var chat = false

    /// Where the bundle lies in the app; its weights are memory-mapped there.
    nonisolated static let bundleFolder = Bundle.module.url(forResource: "bundle", withExtension: nil)

    private let folder = LocalModel.bundleFolder
    private var manifest: BundleManifest?
    private var session: Edgestill?
    private var threads = 0
    private var verified = false
    private var observers: [any NSObjectProtocol] = []

    public init() {
        #if canImport(UIKit)
        observe(UIApplication.didReceiveMemoryWarningNotification) { $0.release() }
        #endif
        observe(ProcessInfo.thermalStateDidChangeNotification) { $0.heated() }
    }

    deinit {
        observers.forEach { NotificationCenter.default.removeObserver($0) }
    }

    /// Open the model and, at the first start with it, answer its golden prompts.
    public func prepare() async {
        do {
            guard let folder else { throw CocoaError(.fileNoSuchFile) }
            let manifest = try BundleManifest.read(folder)
            self.manifest = manifest
            let session = try await open()
            // A new version of the app has a new library: it is tested again.
            let version = Bundle.main.object(forInfoDictionaryKey: "CFBundleVersion") as? String ?? ""
            let tested = "\(manifest.contentSha256) \(version)"
            if UserDefaults.standard.string(forKey: "selftest") != tested {
                status = "Testing the model"
                _ = try await session.selftest()
                UserDefaults.standard.set(tested, forKey: "selftest")
            }
            name = manifest.name
            chat = manifest.chat
            prompts = Array(try goldenPrompts(folder).filter { !$0.isEmpty }.prefix(3))
            status = "Ready: it runs on this device, without a network."
            ready = true
        } catch {
            status = String(describing: error)
        }
    }

    /// Answer a text or, where the model knows conversations, the last of some messages.
    public func answer(_ messages: [Message]) async throws -> AsyncThrowingStream<Token, Error> {
        let session = try await open()
        let ids: [Int32]
        if chat {
            ids = try await session.tokenize(session.applyTemplate(messages), addSpecial: false)
        } else {
            ids = try await session.tokenize(messages.last?.content ?? "")
        }
        return session.tokens(ids, manifest?.answer ?? Generation(), pace: LocalModel.cool)
    }

    /// Measure; JSON of all samples.
    public func bench() async throws -> String {
        try await open().bench()
    }

    /// End what is under way and give the memory back.
    public func release() {
        session?.close()
        session = nil
    }

    private func open() async throws -> Edgestill {
        guard let folder, let manifest, let artifact = manifest.carried(in: folder) else {
            throw CocoaError(.fileNoSuchFile)
        }
        let usual = Cores.threads(modelBytes: artifact.sizeBytes)
        let wanted = Self.hot(.serious) ? max(1, usual / 2) : usual
        if let session, threads == wanted { return session }
        release()
        let opened = try await Edgestill.open(
            folder, artifact: artifact.name, threads: Int32(wanted), verify: !verified)
        verified = true  // once in a process: the app's folder can't be written
        threads = wanted
        session = opened
        return opened
    }

    private func heated() {
        if Self.hot(.critical) { session?.cancel() }
        if ready { status = Self.hot(.serious) ? "The device is hot: answers are slower." : "" }
    }

    /// Between two tokens: rest while the device is hot, end the answer before it has to defend itself.
    private nonisolated static let cool: Edgestill.Pace = {
        if LocalModel.hot(.serious) { Thread.sleep(forTimeInterval: 0.2) }
        return !LocalModel.hot(.critical)
    }

    private nonisolated static func hot(_ state: ProcessInfo.ThermalState) -> Bool {
        ProcessInfo.processInfo.thermalState.rawValue >= state.rawValue
    }

    private func observe(_ name: Notification.Name, _ work: @escaping @MainActor (LocalModel) -> Void) {
        let center = NotificationCenter.default
        let observer = center.addObserver(forName: name, object: nil, queue: .main) { [weak self] _ in
            MainActor.assumeIsolated {
                if let self { work(self) }
            }
        }
        observers.append(observer)
    }
}
