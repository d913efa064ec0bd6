import Edgestill
import Foundation
import XCTest

@testable import ModelUI

/// Run on a Mac: `xcodebuild test`, on a device or in the simulator.
final class EdgestillTests: XCTestCase {
    private func opened() async throws -> (URL, Edgestill) {
        let folder = try XCTUnwrap(LocalModel.bundleFolder)
        let artifact = try XCTUnwrap(BundleManifest.read(folder).carried(in: folder))
        return (folder, try await Edgestill.open(folder, artifact: artifact.name, threads: 1))
    }

    func testTheBundlePassesItsSelfTest() async throws {
        let (_, session) = try await opened()
        let json = try await session.selftest()
        XCTAssertTrue(json.contains("edgestill.selftest/1"))
    }

    func testAnAnswerEndsWithItsLoop() async throws {
        let (_, session) = try await opened()
        var asked = Generation()
        asked.ignoreEOS = true
        asked.maxNewTokens = 200
        var count = 0
        for try await _ in session.tokens(try await session.tokenize("Once upon a time"), asked) {
            count += 1
            if count == 3 { break }
        }
        XCTAssertEqual(count, 3)
        session.close()
        do {
            _ = try await session.tokenize("x")
            XCTFail("a closed session works")
        } catch let error as EdgestillError {
            XCTAssertEqual(error.message, "the session is closed")
        }
    }

    func testAFailureIsAnErrorWithAText() async throws {
        do {
            _ = try await Edgestill.open(URL(fileURLWithPath: "/nothing"))
            XCTFail("nothing was opened")
        } catch let error as EdgestillError {
            XCTAssertEqual(error.status, 2)
        }
    }
}
